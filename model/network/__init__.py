"""The network, bottom to top: configuration, rope, cache, attention, layers, transformer, vision, flow, sensenova."""
