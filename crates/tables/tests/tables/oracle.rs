//! Tables compared with what other programs say of the same machine: values, not counts.

mod accounts;
mod files;
mod network;
mod packages;
mod processes;
mod storage;
