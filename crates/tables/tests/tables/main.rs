//! What the tables and the engine promise, tried from outside.

mod engine;
