//! A parsed source file, and what a rule finds in it.

use std::fmt;
use std::path::Path;

pub struct Source {
    /// From the repository's root, with `/`.
    pub path: String,
    pub text: String,
    pub tree: syn::File,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

impl Source {
    pub fn parse(path: &str, text: String) -> Result<Self, Finding> {
        match syn::parse_file(&text) {
            Ok(tree) => Ok(Self {
                path: path.to_owned(),
                text,
                tree,
            }),
            Err(error) => {
                let line = error.span().start().line;
                Err(Finding {
                    path: path.to_owned(),
                    line,
                    message: format!("does not parse: {error}"),
                })
            }
        }
    }

    pub fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            message: message.into(),
        }
    }

    /// Counted from 1.
    pub fn line(&self, number: usize) -> &str {
        self.text.lines().nth(number.wrapping_sub(1)).unwrap_or_default()
    }

    /// Of the product, not of a tool.
    pub fn in_product(&self) -> bool {
        self.path.starts_with("src/")
    }

    /// Wholly a test: `tests.rs`, `x_tests.rs`, `tests/`, and the black-box suites.
    pub fn is_test(&self) -> bool {
        let file = self.path.rsplit('/').next().unwrap_or_default();
        file.ends_with("tests.rs") || self.path.contains("/tests/") || self.path.starts_with("conformance/")
    }

    /// Whether a comment with `words` stands on the line or in the comments and attributes right above it.
    pub fn explained(&self, line: usize, words: &str) -> bool {
        let comment = |text: &str| {
            text.split_once("//")
                .is_some_and(|(_, comment)| comment.contains(words))
        };
        if comment(self.line(line)) {
            return true;
        }
        let above = (1..line).rev().map(|number| self.line(number).trim());
        above
            .take_while(|text| text.starts_with("//") || text.starts_with("#["))
            .any(comment)
    }
}

/// Every Rust source below `root` in the folders that are ours, sorted by path.
pub fn collect(root: &Path) -> std::io::Result<Vec<Result<Source, Finding>>> {
    let mut waiting: Vec<_> = ["src", "tools", "conformance", "fuzz"]
        .iter()
        .map(|folder| root.join(folder))
        .collect();
    let mut paths = Vec::new();
    while let Some(folder) = waiting.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .is_some_and(|name| name == "target" || name.to_string_lossy().starts_with('.'));
            if path.is_dir() && !hidden {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path
            .strip_prefix(root)
            .unwrap_or(path)
            .to_string_lossy()
            .replace('\\', "/");
        Ok(Source::parse(&name, std::fs::read_to_string(path)?))
    };
    paths.iter().map(read).collect()
}
