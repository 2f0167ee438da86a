"""The parts of `answerable simulate-release`: plan, versions, traffic, services, simulator."""
