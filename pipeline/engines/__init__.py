"""How shards get to workers: in this process, or in many by Ray."""
