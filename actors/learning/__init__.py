"""Learn: models, data sets, partitions and evaluation on one machine, without Ray."""
