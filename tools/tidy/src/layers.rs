//! Imports between the modules of `src/`: only downwards, and never in a circle. The table is that of the blueprint,
//! section 2; ARCHITECTURE.md explains it.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

use crate::source::{Finding, Source};

const LAYERS: [&[&str]; 8] = [
    &[
        "ids",
        "limits",
        "clock",
        "config",
        "priority",
        "script",
        "shutdown",
        "telemetry",
    ],
    &["kv", "blob", "policy"],
    &["meta"],
    &["chunk", "events"],
    &["backup", "iam", "object"],
    &["notify", "jobs"],
    &["s3", "query_api", "admin"],
    &["server", "cli", "main", "fuzz"],
];
/// Imports within a layer. Those of layer 0 are free, as its modules are leaves; a circle is still found.
const WITHIN: [(&str, &str); 7] = [
    ("kv", "blob"),
    ("object", "iam"),
    ("cli", "server"),
    ("main", "cli"),
    ("main", "server"),
    ("fuzz", "cli"),
    ("fuzz", "server"),
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The path of modules that a file is, below the crate: `src/kv/rocks/log.rs` is `kv rocks log`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path
        .trim_start_matches("src/")
        .trim_end_matches(".rs")
        .trim_end_matches("/mod");
    if inner == "lib" {
        Vec::new()
    } else {
        inner.split('/').map(str::to_owned).collect()
    }
}

pub fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute
            .meta
            .require_list()
            .ok()
            .filter(|list| list.path.is_ident("cfg"));
        list.is_some_and(|list| list.tokens.to_string() == "test")
    })
}

/// Collects (line, top module) of everything a file names inside the crate, tests left out.
struct Imports {
    here: Vec<String>,
    found: Vec<(usize, String)>,
}

impl Imports {
    fn resolve(&mut self, segments: &[&proc_macro2::Ident]) {
        let Some(first) = segments.first() else { return };
        let line = first.span().start().line;
        let names: Vec<String> = segments.iter().map(ToString::to_string).collect();
        let supers = names.iter().take_while(|name| *name == "super").count();
        let target = match first.to_string().as_str() {
            "crate" | "cairn" => names.get(1),
            "super" if supers >= self.here.len() => names.get(supers),
            _ => None,
        };
        if let Some(target) = target {
            self.found.push((line, target.clone()));
        }
    }

    fn tree<'a>(&mut self, tree: &'a syn::UseTree, before: &mut Vec<&'a proc_macro2::Ident>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(&path.ident);
                self.tree(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(item, before)),
            syn::UseTree::Name(name) => self.leaf(&name.ident, before),
            syn::UseTree::Rename(rename) => self.leaf(&rename.ident, before),
            syn::UseTree::Glob(_) => self.resolve(before),
        }
    }

    fn leaf<'a>(&mut self, ident: &'a proc_macro2::Ident, before: &mut Vec<&'a proc_macro2::Ident>) {
        before.push(ident);
        self.resolve(before);
        before.pop();
    }

    /// `crate::x` inside a macro's tokens, which have no syntax tree.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut run: Vec<proc_macro2::Ident> = Vec::new();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if !run.is_empty() || ident == "crate" => run.push(ident),
                TokenTree::Punct(punct) if punct.as_char() == ':' => {}
                TokenTree::Group(group) => {
                    self.flush(&mut run);
                    self.tokens(group.stream());
                }
                _ => self.flush(&mut run),
            }
        }
        self.flush(&mut run);
    }

    fn flush(&mut self, run: &mut Vec<proc_macro2::Ident>) {
        self.resolve(&run.iter().collect::<Vec<_>>());
        run.clear();
    }
}

impl<'a> Visit<'a> for Imports {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            self.here.push(item.ident.to_string());
            syn::visit::visit_item_mod(self, item);
            self.here.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if !is_test_only(&item.attrs) {
            self.tree(&item.tree, &mut Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.resolve(&path.segments.iter().map(|segment| &segment.ident).collect::<Vec<_>>());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        self.tokens(item.tokens.clone());
    }
}

fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut visitor = Imports {
        here: module_path(&source.path),
        found: Vec::new(),
    };
    visitor.visit_file(&source.tree);
    visitor.found
}

fn may_import(from: &str, to: &str) -> bool {
    let (Some(own), Some(other)) = (layer(from), layer(to)) else {
        return false;
    };
    other < own || (own == other && (own == 0 || WITHIN.contains(&(from, to))))
}

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut edges: BTreeMap<String, BTreeMap<String, (String, usize)>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.in_product() && !source.is_test()) {
        let Some(own) = module_path(&source.path).first().cloned() else {
            continue;
        };
        if layer(&own).is_none() {
            findings.push(source.finding(1, format!("module '{own}' has no layer: add it to tidy's table")));
        }
        for (line, target) in imports(source) {
            if target == own || layer(&target).is_none() {
                continue;
            }
            if layer(&own).is_some() && !may_import(&own, &target) {
                findings.push(source.finding(
                    line,
                    format!("'{own}' may not import from '{target}', which is not below it"),
                ));
            }
            edges
                .entry(own.clone())
                .or_default()
                .entry(target)
                .or_insert_with(|| (source.path.clone(), line));
        }
    }
    findings.extend(cycles(&edges));
    findings
}

fn cycles(edges: &BTreeMap<String, BTreeMap<String, (String, usize)>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (from, targets) in edges {
        for (to, (path, line)) in targets {
            let mut reached = BTreeSet::new();
            let mut waiting = vec![to];
            while let Some(module) = waiting.pop() {
                if reached.insert(module) {
                    waiting.extend(edges.get(module).into_iter().flat_map(BTreeMap::keys));
                }
            }
            if reached.contains(from) {
                let message = format!("'{from}' imports '{to}', which leads back to it");
                findings.push(Finding {
                    path: path.clone(),
                    line: *line,
                    message,
                });
            }
        }
    }
    findings
}
