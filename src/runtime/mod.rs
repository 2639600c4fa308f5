//! Starts a microVM process from a config.

mod agent_binary;

pub use agent_binary::AGENT;
