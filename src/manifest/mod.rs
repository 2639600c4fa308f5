//! Turns Sandboxfile text into a [`Project`](crate::spec::Project), or explains why not.
//!
//! Nothing here reads a file or the environment: [`Inputs`] carries the texts, a [`Loader`] for the
//! files that they name, and the variables. All errors of all files are found in one run.

mod canonical;
mod check;
mod diagnostic;
mod dotenv;
mod graph;
mod image;
mod interpolate;
mod keys;
pub mod limits;
mod lower;
mod merge;
mod path;
mod project;
mod reference;
mod report;
mod schema;
mod select;
mod source;
mod tree;
mod unit;
mod unsupported;
mod volumes;

pub use diagnostic::{Diagnostic, Severity};
pub use source::{Inputs, Loader, Parsed, Source};

pub use canonical::canonical_toml;
pub use reference::{Explanation, closest_key, explain, markdown};
pub use schema::json_schema;
pub use select::{UnknownSandbox, select};
pub use unsupported::unsupported;

/// Reads a project from its Sandboxfiles.
pub fn load(inputs: Inputs<'_>) -> Parsed {
    let mut session = unit::Session::new(inputs);
    session.read_all();
    project::assemble(session)
}

#[cfg(test)]
mod tests;
