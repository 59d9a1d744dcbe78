"""A turn: a task becomes a checked request, the engine runs it, and sinks store the results.

    layers = flags.layers()                           read every source of settings
    card   = model.card(view)                         read the model's recommendations, without its weights
    turn   = build_turn(task, layers, card, …)        merge the settings and check the request
    engine = model.open([turn.request], view)         load the model, or wait for the resident one
    run_turn(engine, turn, view, sinks, stop)         show each event, then give it to the sinks

One-shot commands and sessions differ only in their `Frontend`: the view, the sinks and the stop signal.
"""
