//! The project's style, held by a test: `cargo test -p tidy` reads every source of the repository. A limit is raised by
//! editing the tables here in a commit that says why.

mod layers;
mod shape;
mod source;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use source::Finding;

/// Everything the rules have to say about the repository at `root`.
pub fn check(root: &Path) -> std::io::Result<Vec<Finding>> {
    let (mut sources, mut findings) = (Vec::new(), Vec::new());
    for parsed in source::collect(root)? {
        match parsed {
            Ok(source) => sources.push(source),
            Err(finding) => findings.push(finding),
        }
    }
    findings.extend(sources.iter().flat_map(shape::check));
    findings.extend(layers::check(&sources));
    findings.sort();
    findings.dedup();
    Ok(findings)
}
