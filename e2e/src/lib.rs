//! Starts the real program for tests of the whole system: `ferrum up` with real manifests, and what comes back.

