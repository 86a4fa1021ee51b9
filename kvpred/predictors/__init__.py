"""From measurements to estimates: operators, throughput, memory, intervals, bundles."""
