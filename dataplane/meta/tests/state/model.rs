//! A random walk against a naive model.
