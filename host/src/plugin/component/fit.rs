//! Whether a component fits what the host offers, with a message for every misfit.
//!
//! The engine's linker stops at the first misfit and names neither function nor field. So this module first compares names
//! and types with the WIT files. The linker then finds only types of WASI that differ.

use wasmtime::Engine;
use wasmtime::component::types::{ComponentFunc, ComponentInstance, ComponentItem};
use wasmtime::component::{Component, InstancePre, Linker};
use wit_parser::Interface;

use super::signature::{self, KnownInterfaces};
use crate::plugin::dialect::{Dialect, HandlerExport, versioned};
use crate::plugin::host_api::bindings::exports::eventstream::plugin::describe::GuestIndices as DescribeIndices;
use crate::plugin::host_api::{self, InstanceHost};
use crate::plugin::sandbox::capacity::{MAX_MEMORIES, MAX_TABLES};

/// The version of our package. Compatible versions fit too.
const VERSION: &str = "0.1.0";
const DESCRIBE: &str = "eventstream:plugin/describe";

/// The page size of memories. The proposal for other page sizes is off.
const PAGE_BYTES: u64 = 64 * 1_024;

/// The packages and interfaces of WASI 0.2 that are linked as a whole.
const WASI: [&str; 8] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/outgoing-handler@",
    "wasi:http/types@",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// How to build without the WASI of another version.
const WITHOUT_WASI: &str = "build for that (Rust: `--target wasm32-wasip2`), or without any (JavaScript: `--disable all` or \
                            `--backend-qjs-stub-wasi`, Python: `--stub-wasi`)";

/// Drafts, which fit only in exactly these versions.
const DRAFTS: [(&str, &[&str]); 5] = [
    ("wasi:config/store", &["0.2.0-rc.1", "0.2.0-draft-2024-09-27"]),
    ("wasi:logging/logging", &["0.1.0-draft"]),
    ("wasi:keyvalue/store", &["0.2.0-draft", "0.2.0-draft2"]),
    ("wasi:keyvalue/atomics", &["0.2.0-draft", "0.2.0-draft2"]),
    ("wasi:keyvalue/batch", &["0.2.0-draft", "0.2.0-draft2"]),
];

/// A component that fits.
pub(in crate::plugin) struct FittedComponent {
    pub(in crate::plugin) pre: InstancePre<InstanceHost>,
    pub(in crate::plugin) handler: HandlerExport,
    /// The other dialects that it exports, in the order of precedence.
    pub(in crate::plugin) other_dialects: Vec<Dialect>,
    pub(in crate::plugin) describe: Option<DescribeIndices>,
    /// How many memories an instance has; at least one.
    pub(in crate::plugin) memories: u32,
}

/// Checks a component against the linker.
///
/// # Errors
/// A message for each misfit; never empty.
pub(in crate::plugin) fn check(
    component: &Component,
    linker: &Linker<InstanceHost>,
    memory_bytes: u64,
) -> Result<FittedComponent, Vec<String>> {
    let engine = component.engine();
    let known = KnownInterfaces::read();
    let mut misfits = check_imports(component, engine, &known);
    let (dialects, has_describe) = check_exports(component, engine, &known, &mut misfits);
    check_resources(component, memory_bytes, &mut misfits);
    let pre = match linker.instantiate_pre(component) {
        Ok(pre) => pre,
        Err(error) => {
            let types = differing_types(component, engine);
            if misfits.is_empty() && types.is_empty() {
                misfits.push(format!("{error:#}"));
            }
            misfits.extend(types);
            return Err(misfits);
        }
    };
    let Some((dialect, other_dialects)) = dialects.split_first().filter(|_| misfits.is_empty()) else {
        return Err(misfits);
    };
    let handler = HandlerExport::find(*dialect, &pre).map_err(|error| vec![format!("{error:#}")])?;
    let describe = match has_describe {
        true => Some(DescribeIndices::new(&pre).map_err(|error| vec![format!("{error:#}")])?),
        false => None,
    };
    let memories = component.resources_required().map_or(MAX_MEMORIES, |required| required.num_memories);
    let memories = memories.clamp(1, MAX_MEMORIES);
    Ok(FittedComponent { pre, handler, other_dialects: other_dialects.to_vec(), describe, memories })
}

fn check_imports(component: &Component, engine: &Engine, known: &KnownInterfaces) -> Vec<String> {
    let (mut misfits, mut other_wasi) = (Vec::new(), Vec::new());
    let component_type = component.component_type();
    for (name, import) in component_type.imports(engine) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let draft = DRAFTS.iter().find(|(known, _)| *known == interface);
        match (&import.ty, known.find(interface).filter(|_| !is_called(interface))) {
            (ComponentItem::ComponentInstance(instance), Some((offered, ours))) => match fits(version, &offered) {
                true => {
                    misfits.extend(unknown_functions(name, instance, engine, ours));
                    misfits.extend(differing_functions("imports", name, instance, engine, known));
                }
                false => misfits.push(other_version("imports", name, &versioned(interface, &offered))),
            },
            (ComponentItem::ComponentInstance(_), None) if WASI.iter().any(|package| name.starts_with(package)) => {
                if !fits(version, "0.2.0") {
                    other_wasi.push(name);
                }
            }
            (ComponentItem::ComponentInstance(_), None) if let Some((_, drafts)) = draft => {
                if !drafts.contains(&version) {
                    misfits.push(format!("imports {name}; of this draft {} are offered", drafts.join(" and ")));
                }
            }
            (ComponentItem::ComponentInstance(_), None) => {
                misfits.push(format!("imports {name}, which is not offered{}", hint(interface)));
            }
            (ComponentItem::Type(_), _) => {}
            _ => misfits.push(format!("imports {name:?} outside of any interface; only interfaces are offered")),
        }
    }
    if !other_wasi.is_empty() {
        let names = other_wasi.join(", ");
        misfits.push(format!("imports {names}, but the WASI that is offered is 0.2: {WITHOUT_WASI}"));
    }
    misfits
}

/// Whether an interface is one that components export and this host calls.
fn is_called(interface: &str) -> bool {
    interface == DESCRIBE || Dialect::ALL.iter().any(|dialect| dialect.export().0 == interface)
}

/// Messages for imported functions that this host lacks, as of a later version of an interface.
fn unknown_functions(name: &str, instance: &ComponentInstance, engine: &Engine, ours: &Interface) -> Vec<String> {
    let wanted = instance.exports(engine).filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
    wanted
        .filter(|(function, _)| !ours.functions.contains_key(*function))
        .map(|(function, _)| format!("imports {function:?} of {name}, a function that this host lacks"))
        .collect()
}

/// Messages for functions whose types differ from those that this host knows.
fn differing_functions(
    does: &str,
    name: &str,
    instance: &ComponentInstance,
    engine: &Engine,
    known: &KnownInterfaces,
) -> Vec<String> {
    let interface = name.split_once('@').map_or(name, |(interface, _)| interface);
    let differs = known.functions(interface).filter_map(|ours| {
        let theirs = signature::of_component(&function_of(instance, engine, &ours.name)?);
        let (function, words) = (&ours.name, known.signature(ours));
        (theirs != words).then(|| {
            format!(
                "{does} {function:?} of {name} as `{theirs}`, which for this host is `{words}`: rebuild against that"
            )
        })
    });
    differs.collect()
}

/// Messages for the functions that an exported interface lacks.
fn missing_functions(
    name: &str,
    instance: &ComponentInstance,
    engine: &Engine,
    known: &KnownInterfaces,
) -> Vec<String> {
    let interface = name.split_once('@').map_or(name, |(interface, _)| interface);
    let lacks = known.functions(interface).filter(|ours| function_of(instance, engine, &ours.name).is_none());
    lacks
        .map(|ours| {
            format!("exports {name} without its function {:?}, which is `{}`", ours.name, known.signature(ours))
        })
        .collect()
}

fn function_of(instance: &ComponentInstance, engine: &Engine, function: &str) -> Option<ComponentFunc> {
    match instance.get_export(engine, function)?.ty {
        ComponentItem::ComponentFunc(function) => Some(function),
        _ => None,
    }
}

/// The dialects that it speaks, in the order of precedence, and whether it exports a usable `describe`. Adds the misfits of
/// the exports.
fn check_exports(
    component: &Component,
    engine: &Engine,
    known: &KnownInterfaces,
    misfits: &mut Vec<String>,
) -> (Vec<Dialect>, bool) {
    let component_type = component.component_type();
    let find = |interface: &str, offered: &str| {
        let named = component_type.exports(engine).filter_map(|(name, item)| {
            let (exported, version) = name.split_once('@').unwrap_or((name, ""));
            match item.ty {
                ComponentItem::ComponentInstance(instance) if exported == interface => {
                    Some((fits(version, offered), name.to_owned(), instance))
                }
                _ => None,
            }
        });
        named.max_by_key(|(fits, ..)| *fits)
    };
    let (mut dialects, mut others) = (Vec::new(), Vec::new());
    for dialect in Dialect::ALL {
        let (interface, offered) = dialect.export();
        match find(interface, offered) {
            Some((true, name, instance)) => {
                // Only the first is called.
                if dialects.is_empty() {
                    misfits.extend(missing_functions(&name, &instance, engine, known));
                    misfits.extend(differing_functions("exports", &name, &instance, engine, known));
                }
                dialects.push(dialect);
            }
            Some((false, name, _)) => others.push(other_version("exports", &name, &dialect.interface())),
            None => {}
        }
    }
    if dialects.is_empty() && others.is_empty() {
        let exported: Vec<&str> = component_type.exports(engine).map(|(name, _)| name).collect();
        let exported = if exported.is_empty() { "nothing".to_owned() } else { exported.join(", ") };
        let ours = Dialect::Eventstream.interface();
        misfits.push(format!("does not export {ours} (it exports {exported}){}", export_hint(&exported)));
    }
    if dialects.is_empty() {
        misfits.extend(others);
    }
    let describe = find(DESCRIBE, VERSION);
    match &describe {
        Some((true, name, instance)) => {
            misfits.extend(missing_functions(name, instance, engine, known));
            misfits.extend(differing_functions("exports", name, instance, engine, known));
        }
        Some((false, name, _)) => misfits.push(other_version("exports", name, &versioned(DESCRIBE, VERSION))),
        None => {}
    }
    (dialects, describe.is_some_and(|(fits, ..)| fits))
}

fn check_resources(component: &Component, memory_bytes: u64, misfits: &mut Vec<String>) {
    let Some(required) = component.resources_required() else {
        misfits.push("imports core modules, which are not offered".into());
        return;
    };
    if required.num_memories > MAX_MEMORIES {
        misfits.push(format!("has {} memories; a plugin may have {MAX_MEMORIES}", required.num_memories));
    }
    if required.num_tables > MAX_TABLES {
        misfits.push(format!("has {} tables; a plugin may have {MAX_TABLES}", required.num_tables));
    }
    let initial_bytes = initial_memory_bytes(component).unwrap_or(0);
    if initial_bytes > memory_bytes {
        misfits.push(format!(
            "starts with {initial_bytes} bytes of memory; an attempt may have {memory_bytes}: raise limits.memory_bytes in its \
             settings, or build it with less"
        ));
    }
}

/// The largest memory that an instance starts with; `None` for a component that imports modules.
pub(in crate::plugin) fn initial_memory_bytes(component: &Component) -> Option<u64> {
    let required = component.resources_required()?;
    Some(required.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE_BYTES))
}

/// The linker's error for each part of what is offered, while all other imports count as satisfied.
fn differing_types(component: &Component, engine: &Engine) -> Vec<String> {
    let part_linkers = host_api::build_part_linkers(engine).unwrap_or_default();
    part_linkers
        .into_iter()
        .filter_map(|mut linker| {
            linker.define_unknown_imports_as_traps(component).ok()?;
            linker.instantiate_pre(component).err().map(|error| format!("{error:#}"))
        })
        .collect()
}

/// Whether a version is compatible with the offered one: equal up to the first number that is not 0. Drafts fit only if
/// they are equal.
fn fits(version: &str, offered: &str) -> bool {
    let prefix = |version: &str| -> Option<Vec<u64>> {
        let numbers: Vec<u64> = version.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let first = numbers.iter().position(|number| *number != 0)?;
        (numbers.len() == 3).then(|| numbers[..=first].to_vec())
    };
    version == offered || prefix(version).is_some_and(|wanted| Some(wanted) == prefix(offered))
}

fn other_version(does: &str, name: &str, offered: &str) -> String {
    format!("{does} {name}, but this host speaks {offered}: rebuild against it")
}

fn hint(interface: &str) -> &'static str {
    match interface {
        _ if interface.starts_with("wasi:http/") => {
            ": of HTTP, wasi:http/outgoing-handler is (JavaScript: leave out others with `--disable http` or `--disable all`)"
        }
        _ if interface.starts_with("wasi:") => {
            ": of WASI there are cli, clocks, filesystem, http/types, io, messaging, random and sockets; leave out what uses it"
        }
        _ if interface.starts_with("wasmcloud:")
            || interface.starts_with("fermyon:")
            || interface.starts_with("spin:") =>
        {
            ": of other hosts only what wit/README.md names is; leave out what uses it"
        }
        _ => ": remove it from the world that the component is built against",
    }
}

/// A hint for a component that exports only interfaces that are not called.
fn export_hint(exported: &str) -> &'static str {
    match exported {
        _ if exported.contains("wasi:cli/run") => {
            ": it is a command, and a plugin is a library (Rust: `crate-type = [\"cdylib\"]` and src/lib.rs)"
        }
        _ if exported.contains("spin:redis/") || exported.contains("wasi:http/handler@0.3") => {
            ": asynchronous handlers are not called; build it with a version of its SDK for WASI 0.2"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatible_versions_fit() {
        for (version, offered, expected) in [
            ("0.1.0", "0.1.0", true),
            ("0.1.9", "0.1.0", true),
            ("0.2.0", "0.1.0", false),
            ("0.2.12", "0.2.0", true),
            ("1.4.2", "1.0.0", true),
            ("0.2.0-rc", "0.2.0", false),
            ("0.2.0-draft", "0.2.0-draft", true),
            ("0.2.0-draft2", "0.2.0-draft", false),
            ("", "", true),
            ("", "0.1.0", false),
        ] {
            assert_eq!(fits(version, offered), expected, "{version} against {offered}");
        }
    }

    #[test]
    fn the_interfaces_that_are_called_have_the_versions_of_the_wit_files() {
        let known = KnownInterfaces::read();
        let ours = Dialect::ALL.iter().map(|dialect| dialect.export()).filter(|(name, _)| !name.contains("wasi:http"));
        for (name, version) in ours.chain([(DESCRIBE, VERSION)]) {
            assert_eq!(known.find(name).map(|(version, _)| version).as_deref(), Some(version), "{name}");
        }
    }
}
