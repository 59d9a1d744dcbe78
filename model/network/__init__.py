"""The network, bottom to top: configuration, rope, cache, norms, projection, attention, operations, layers,
transformer, vision, flow, sensenova."""
