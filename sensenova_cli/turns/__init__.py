"""A turn: what was asked becomes a checked request, the engine runs it, and sinks keep what it makes.

    layers  = read what the user set                          (sensenova_cli.inputs.flags, config.sources)
    card    = model.card(view)                                what the model recommends, read before its weights
    turn    = build_turn(task, layers, card)                  the only merge of settings, the only check of the request
    engine  = model.open([turn.request], view)                loaded now, or already resident
    run_turn(engine, turn, view, sinks, stop)                 every event is shown, then given to the sinks

One-shot commands and sessions differ only in their `Frontend`: the view, the sinks and the stop signal.
"""
