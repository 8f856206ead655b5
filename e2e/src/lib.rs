//! End-to-end scenarios, the demonstration and the benchmark.
