//! Tests of collectors.
