//! Rules on one file at a time: sizes, globs, statics, and things that belong in one place only.

use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::layers::is_test_only;
use crate::source::{Finding, Source};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// A scenario that is told from its beginning to its end reads best in one piece.
const TEST_LINES_MAX: usize = 90;
/// Stands in for libc's functions: their signatures leave no place for state but globals, and every line is a call of
/// theirs with the caller's own arguments.
const INTERPOSER: &str = "tools/synctrace/";
/// Files that may keep a thread-local, each with its reason in the file.
const THREAD_LOCALS: [&str; 2] = ["src/kv/rocks/in_place.rs", "tools/simulate/src/entropy.rs"];

/// A name that may be used below one path only.
struct Home {
    start: &'static [&'static str],
    inside: &'static str,
    message: &'static str,
    tests_too: bool,
}

const HOMES: [Home; 5] = [
    Home {
        start: &["s3s"],
        inside: "src/s3/",
        message: "s3s stays inside src/s3",
        tests_too: true,
    },
    Home {
        start: &["rocksdb"],
        inside: "src/kv/rocks",
        message: "rocksdb stays inside src/kv/rocks",
        tests_too: true,
    },
    Home {
        start: &["std", "env"],
        inside: "src/config",
        message: "only config reads the environment",
        tests_too: false,
    },
    Home {
        start: &["env", "var"],
        inside: "src/config",
        message: "only config reads the environment",
        tests_too: false,
    },
    Home {
        start: &["env", "var_os"],
        inside: "src/config",
        message: "only config reads the environment",
        tests_too: false,
    },
];

struct Shape<'s> {
    source: &'s Source,
    tests: usize,
    findings: Vec<Finding>,
}

pub fn check(source: &Source) -> Vec<Finding> {
    let mut shape = Shape {
        source,
        tests: usize::from(source.is_test()),
        findings: Vec::new(),
    };
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        shape.add(
            FILE_LINES_MAX + 1,
            format!("the file has {lines} lines, {FILE_LINES_MAX} are the most"),
        );
    }
    for (index, line) in source.text.lines().enumerate() {
        let comment = line.split_once("//").map_or("", |(_, comment)| comment);
        if ["TODO", "FIXME", "XXX"]
            .iter()
            .any(|word| comment.trim_start_matches(['/', '!', ' ']).starts_with(word))
        {
            shape.add(index + 1, "do it, or leave it out: no notes to oneself in the source");
        }
    }
    shape.visit_file(&source.tree);
    shape.findings
}

impl Shape<'_> {
    fn add(&mut self, line: usize, message: impl Into<String>) {
        self.findings.push(self.source.finding(line, message));
    }

    fn function(&mut self, name: &syn::Ident, from: usize, to: usize) {
        let lines = to + 1 - from;
        let is_test = self.tests > 0 || self.source.path.contains("tests");
        let most = if is_test { TEST_LINES_MAX } else { FUNCTION_LINES_MAX };
        if lines > most {
            self.add(
                from,
                format!("function '{name}' has {lines} lines, {most} are the most"),
            );
        }
    }

    fn unsafety(&mut self, line: usize) {
        if self.source.path.starts_with(INTERPOSER) {
            return;
        }
        if !self.source.explained(line, "SAFETY:") && !self.source.explained(line, "# Safety") {
            self.add(line, "unsafe without a SAFETY: comment that proves it");
        }
    }

    /// A path that was named, from its first segment.
    fn named(&mut self, line: usize, names: &[String]) {
        if !self.source.in_product() {
            return;
        }
        for home in &HOMES {
            let matches = names.len() >= home.start.len() && home.start.iter().zip(names).all(|(a, b)| a == b);
            if matches && (home.tests_too || self.tests == 0) && !self.source.path.starts_with(home.inside) {
                self.add(line, home.message);
                return;
            }
        }
        let ends = |end: [&str; 2]| names.len() >= 2 && names.iter().rev().zip(end.iter().rev()).all(|(a, b)| a == b);
        if (ends(["SystemTime", "now"]) || ends(["OffsetDateTime", "now_utc"])) && self.source.path != "src/clock.rs" {
            self.add(line, "only clock.rs reads the machine's clock");
        }
    }

    fn use_tree(&mut self, tree: &syn::UseTree, names: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                names.push(path.ident.to_string());
                self.use_tree(&path.tree, names);
                names.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.use_tree(item, names)),
            syn::UseTree::Name(name) => self.use_name(&name.ident, names),
            syn::UseTree::Rename(rename) => self.use_name(&rename.ident, names),
            syn::UseTree::Glob(glob) => {
                let line = glob.span().start().line;
                let allowed = self.tests > 0 && matches!(names.join("::").as_str(), "super" | "proptest::prelude");
                if !allowed {
                    self.add(line, "glob import: name what is used");
                }
                self.named(line, names);
            }
        }
    }

    fn use_name(&mut self, ident: &syn::Ident, names: &mut Vec<String>) {
        if ident != "self" {
            names.push(ident.to_string());
        }
        self.named(ident.span().start().line, names);
        if ident != "self" {
            names.pop();
        }
    }
}

impl<'a> Visit<'a> for Shape<'_> {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        let test = usize::from(is_test_only(&item.attrs));
        self.tests += test;
        syn::visit::visit_item_mod(self, item);
        self.tests -= test;
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.function(
            &item.sig.ident,
            item.sig.span().start().line,
            item.block.span().end().line,
        );
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.function(
            &item.sig.ident,
            item.sig.span().start().line,
            item.block.span().end().line,
        );
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        self.function(&item.sig.ident, item.sig.span().start().line, item.span().end().line);
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_signature(&mut self, signature: &'a syn::Signature) {
        if let Some(token) = signature.unsafety {
            self.unsafety(token.span.start().line);
        }
        syn::visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        if let Some(token) = item.unsafety {
            self.unsafety(token.span.start().line);
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_expr_unsafe(&mut self, item: &'a syn::ExprUnsafe) {
        self.unsafety(item.unsafe_token.span.start().line);
        syn::visit::visit_expr_unsafe(self, item);
    }

    fn visit_item_static(&mut self, item: &'a syn::ItemStatic) {
        let allocator = item
            .attrs
            .iter()
            .any(|attribute| attribute.path().is_ident("global_allocator"));
        if !allocator && !self.source.path.starts_with(INTERPOSER) {
            self.add(
                item.static_token.span.start().line,
                format!("global static '{}': pass it down instead", item.ident),
            );
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let test = usize::from(is_test_only(&item.attrs));
        self.tests += test;
        self.use_tree(&item.tree, &mut Vec::new());
        self.tests -= test;
        syn::visit::visit_item_use(self, item);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.named(path.span().start().line, &names);
        syn::visit::visit_path(self, path);
    }

    fn visit_attribute(&mut self, attribute: &'a syn::Attribute) {
        let line = attribute.span().start().line;
        let silences = attribute.path().is_ident("allow") || attribute.path().is_ident("expect");
        let reason = |list: &syn::MetaList| {
            list.tokens
                .clone()
                .into_iter()
                .any(|token| token.to_string() == "reason")
        };
        if silences && !attribute.meta.require_list().is_ok_and(reason) && !self.source.explained(line, "") {
            self.add(line, "a lint is silenced without a reason");
        }
        if attribute.path().is_ident("ignore") {
            self.add(line, "an ignored test proves nothing");
        }
    }

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        let line = item.path.span().start().line;
        let name = item
            .path
            .segments
            .last()
            .map(|segment| segment.ident.to_string())
            .unwrap_or_default();
        match name.as_str() {
            "todo" | "unimplemented" | "dbg" => self.add(line, format!("{name}! is not finished work")),
            "lazy_static" => self.add(line, "lazy_static! makes a global static: pass it down instead"),
            "thread_local" if !THREAD_LOCALS.contains(&self.source.path.as_str()) => {
                self.add(line, "thread_local! outside the files that tidy lists");
            }
            "assert" if item.tokens.to_string() == "true" => self.add(line, "an assertion that cannot fail"),
            _ => {}
        }
        syn::visit::visit_macro(self, item);
    }
}
