//! Finds files of the host that import each other, directly or by way of others.
//!
//! A name that a file only hands on with `pub use` counts for the file that defines it. So a parent that declares and
//! re-exports its children is no part of a circle, even if they import from each other by way of it.

use std::collections::{BTreeMap, BTreeSet};

use super::files::Module;

/// How often a name may be handed on.
const MAX_REEXPORTS: usize = 8;

/// The files of one circle, with the imports between them.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle {
    /// The files, in order.
    pub files: BTreeSet<String>,
    /// The imports, as `FILE:LINE: imports FILE`.
    pub imports: Vec<String>,
}

/// Every circle among files that are not tests.
pub fn find_circles(modules: &[Module], is_test: impl Fn(&Module) -> bool) -> Vec<Circle> {
    let by_path: BTreeMap<String, usize> =
        modules.iter().enumerate().map(|(at, module)| (module.module.join("::"), at)).collect();
    let mut imports: Vec<BTreeMap<usize, usize>> = vec![BTreeMap::new(); modules.len()];
    for (from, module) in modules.iter().enumerate().filter(|(_, module)| !is_test(module)) {
        for named in module.source.paths.iter().filter(|named| !named.in_test) {
            let target = find_file(modules, &by_path, &named.segments);
            if let Some(to) = target.filter(|to| *to != from && !is_test(&modules[*to])) {
                imports[from].entry(to).or_insert(named.line);
            }
        }
    }
    let reached: Vec<BTreeSet<usize>> = (0..modules.len()).map(|from| reach(&imports, from)).collect();
    let mut circles = Vec::new();
    let mut seen = BTreeSet::new();
    for from in 0..modules.len() {
        let members: BTreeSet<usize> =
            reached[from].iter().copied().filter(|to| reached[*to].contains(&from)).collect();
        if members.is_empty() || !seen.insert(members.clone()) {
            continue;
        }
        let shown = |at: usize| modules[at].shown.clone();
        let within = members.iter().flat_map(|from| imports[*from].iter().map(move |(to, line)| (*from, *to, *line)));
        let within = within.filter(|(_, to, _)| members.contains(to));
        circles.push(Circle {
            files: members.iter().map(|member| shown(*member)).collect(),
            imports: within.map(|(from, to, line)| format!("{}:{line}: imports {}", shown(from), shown(to))).collect(),
        });
    }
    circles
}

/// The files that a file imports, directly or by way of others.
fn reach(imports: &[BTreeMap<usize, usize>], from: usize) -> BTreeSet<usize> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        next.extend(imports[at].keys().copied().filter(|to| reached.insert(*to)));
    }
    reached
}

/// The file in which a path of this crate is defined.
fn find_file(modules: &[Module], by_path: &BTreeMap<String, usize>, path: &[String]) -> Option<usize> {
    let mut path = path.to_vec();
    for _ in 0..MAX_REEXPORTS {
        let own = super::own_module(&path)?;
        let find = |length: usize| by_path.get(&own[..length].join("::")).map(|at| (*at, length));
        let (at, length) = (1..=own.len()).rev().find_map(find).or_else(|| by_path.get("lib").map(|at| (*at, 0)))?;
        let handed_on = own.get(length).and_then(|name| {
            modules[at].source.reexports.iter().find(|handed| handed.name == *name && !handed.path.in_test)
        });
        match handed_on {
            Some(handed) => path = [handed.path.segments.clone(), own[length + 1..].to_vec()].concat(),
            None => return Some(at),
        }
    }
    None
}

#[test]
fn circles_are_found_by_way_of_parents_too() {
    let module = |path: &str, text: &str| Module::new(path, text);
    let modules = [
        module("room", "mod first; mod second; mod third; pub use self::first::First;"),
        module("room::first", "use super::second::Second; pub struct First;"),
        module("room::second", "use super::First; pub struct Second;"),
        module("room::third", "use super::{First, second}; #[cfg(test)] mod tests { use crate::other::Other; }"),
        module("other", "use crate::room::third::Third;"),
    ];
    let circles = find_circles(&modules, |_| false);
    let imports = ["room::first:1: imports room::second", "room::second:1: imports room::first"];
    assert_eq!(circles.len(), 1, "{circles:?}");
    assert_eq!(circles[0].imports, imports);

    let parent = [
        module("room", "mod child; use self::child::Child;"),
        module("room::child", "use super::helper; pub struct Child;"),
    ];
    assert_eq!(find_circles(&parent, |_| false).len(), 1);
    assert_eq!(find_circles(&parent, |module| module.shown == "room::child").len(), 0);
}
