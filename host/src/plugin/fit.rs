//! Whether a component fits what the host offers, and every way in which it does not.
//!
//! The engine's linker stops at the first misfit and names neither function nor field, so names are compared here first,
//! against lists that a test keeps equal to `wit/`; what is left for the linker to find are types that differ.

use wasmtime::Engine;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, InstancePre, Linker};

use super::bindings::exports::eventstream::plugin::describe::GuestIndices as DescribeIndices;
use super::bindings::exports::eventstream::plugin::handler::GuestIndices as HandlerIndices;
use super::engine::{MAX_MEMORIES, MAX_TABLES};
use super::host::{self, Guest};

/// The version of our package, and the track within which versions fit each other.
const VERSION: &str = "0.1.0";
const HANDLER: &str = "eventstream:plugin/handler";
const DESCRIBE: &str = "eventstream:plugin/describe";

/// The unit in which modules ask for memory; the feature that gives them others is off.
const PAGE_BYTES: u64 = 64 * 1_024;

/// The interfaces of our package that a plugin may import, and their functions.
const OURS: [(&str, &[&str]); 7] = [
    ("eventstream:plugin/types", &[]),
    ("eventstream:plugin/delivery", &["attempt", "max-attempts", "remaining-ms", "traceparent", "idempotency-key"]),
    ("eventstream:plugin/publisher", &["publish"]),
    ("eventstream:plugin/state", &["get", "set", "delete", "increment"]),
    ("eventstream:plugin/config", &["get"]),
    ("eventstream:plugin/secrets", &["get"]),
    ("eventstream:plugin/log", &["log"]),
];

/// What is linked of WASI 0.2, by the beginning of its names.
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

/// A component that fits.
pub(super) struct Fit {
    pub(super) pre: InstancePre<Guest>,
    pub(super) handler: HandlerIndices,
    pub(super) describe: Option<DescribeIndices>,
}

/// Checks a component against the linker.
///
/// # Errors
/// Every misfit in words; never empty.
pub(super) fn check(component: &Component, linker: &Linker<Guest>, memory_bytes: u64) -> Result<Fit, Vec<String>> {
    let engine = component.engine();
    let mut misfits = imports(component, engine);
    let has_describe = exports(component, engine, &mut misfits);
    resources(component, memory_bytes, &mut misfits);
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
    if !misfits.is_empty() {
        return Err(misfits);
    }
    let handler = HandlerIndices::new(&pre).map_err(|error| vec![format!("{error:#}")])?;
    let describe = match has_describe {
        true => Some(DescribeIndices::new(&pre).map_err(|error| vec![format!("{error:#}")])?),
        false => None,
    };
    Ok(Fit { pre, handler, describe })
}

fn imports(component: &Component, engine: &Engine) -> Vec<String> {
    let mut misfits = Vec::new();
    for (name, import) in component.component_type().imports(engine) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let ours = OURS.iter().find(|(known, _)| *known == interface);
        match (&import.ty, ours) {
            (ComponentItem::ComponentInstance(instance), Some((_, functions))) => match fits(version, VERSION) {
                true => misfits.extend(lacking(name, instance, engine, functions)),
                false => misfits.push(other_version("imports", name, interface)),
            },
            (ComponentItem::ComponentInstance(_), None) if WASI.iter().any(|package| name.starts_with(package)) => {
                if !fits(version, "0.2.0") {
                    misfits.push(format!("imports {name}, but the WASI that is offered is 0.2"));
                }
            }
            (ComponentItem::ComponentInstance(_), None) => {
                misfits.push(format!("imports {name}, which is not offered{}", hint(interface)));
            }
            (ComponentItem::Type(_), _) => {}
            _ => misfits.push(format!("imports {name:?} outside of any interface; only interfaces are offered")),
        }
    }
    misfits
}

/// The functions that a later version of an interface of ours has and this one lacks.
fn lacking(name: &str, instance: &ComponentInstance, engine: &Engine, functions: &[&str]) -> Vec<String> {
    let wanted = instance.exports(engine).filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
    wanted
        .filter(|(function, _)| !functions.contains(function))
        .map(|(function, _)| format!("imports {function:?} of {name}, a function that this host lacks"))
        .collect()
}

/// Whether there is a `describe`; what is missing is added to the misfits.
fn exports(component: &Component, engine: &Engine, misfits: &mut Vec<String>) -> bool {
    let component_type = component.component_type();
    let find = |interface: &str| {
        component_type.exports(engine).find_map(|(name, item)| {
            let (exported, version) = name.split_once('@').unwrap_or((name, ""));
            (exported == interface).then(|| (name.to_owned(), version.to_owned(), item.ty))
        })
    };
    match find(HANDLER) {
        Some((name, version, ComponentItem::ComponentInstance(_))) if !fits(&version, VERSION) => {
            misfits.push(other_version("exports", &name, HANDLER));
        }
        Some((_, _, ComponentItem::ComponentInstance(_))) => {}
        _ => {
            let exported: Vec<&str> = component_type.exports(engine).map(|(name, _)| name).collect();
            let exported = if exported.is_empty() { "nothing".to_owned() } else { exported.join(", ") };
            misfits.push(format!("does not export {HANDLER}@{VERSION} (it exports {exported})"));
        }
    }
    match find(DESCRIBE) {
        Some((_, version, ComponentItem::ComponentInstance(_))) if fits(&version, VERSION) => true,
        Some((name, ..)) => {
            misfits.push(other_version("exports", &name, DESCRIBE));
            false
        }
        None => false,
    }
}

fn resources(component: &Component, memory_bytes: u64, misfits: &mut Vec<String>) {
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
        misfits.push(format!("starts with {initial_bytes} bytes of memory; an attempt may have {memory_bytes}"));
    }
}

/// The largest memory that an instance starts with; `None` for a component that imports modules.
pub(super) fn initial_memory_bytes(component: &Component) -> Option<u64> {
    let required = component.resources_required()?;
    Some(required.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE_BYTES))
}

/// The linker's complaint about each part of what is offered, with everything else taken as given.
fn differing_types(component: &Component, engine: &Engine) -> Vec<String> {
    let linkers = host::linkers(engine).unwrap_or_default();
    linkers
        .into_iter()
        .filter_map(|mut linker| {
            linker.define_unknown_imports_as_traps(component).ok()?;
            linker.instantiate_pre(component).err().map(|error| format!("{error:#}"))
        })
        .collect()
}

/// Whether a version is on the same track as the one that is offered: equal up to the first number that is not 0.
fn fits(version: &str, offered: &str) -> bool {
    let track = |version: &str| -> Option<Vec<u64>> {
        let numbers: Vec<u64> = version.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let first = numbers.iter().position(|number| *number != 0)?;
        (numbers.len() == 3).then(|| numbers[..=first].to_vec())
    };
    track(version).is_some_and(|wanted| Some(wanted) == track(offered))
}

fn other_version(does: &str, name: &str, interface: &str) -> String {
    format!("{does} {name}, but this host speaks {interface}@{VERSION}: rebuild against it")
}

fn hint(interface: &str) -> &'static str {
    match interface {
        _ if interface.starts_with("wasi:http/") => ": of HTTP, wasi:http/outgoing-handler is",
        _ if interface.starts_with("wasi:") => ": only WASI 0.2 is",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_fit_within_their_track() {
        for (version, offered, expected) in [
            ("0.1.0", "0.1.0", true),
            ("0.1.9", "0.1.0", true),
            ("0.2.0", "0.1.0", false),
            ("0.2.12", "0.2.0", true),
            ("1.4.2", "1.0.0", true),
            ("0.2.0-rc", "0.2.0", false),
            ("", "0.1.0", false),
        ] {
            assert_eq!(fits(version, offered), expected, "{version} against {offered}");
        }
    }

    #[test]
    fn the_lists_are_those_of_the_wit_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/plugin.wit");
        let mut resolve = wit_parser::Resolve::default();
        let package = resolve.push_file(path).unwrap();
        let name = &resolve.packages[package].name;
        assert_eq!(name.version.as_ref().unwrap().to_string(), VERSION);
        for (interface, id) in &resolve.packages[package].interfaces {
            let full = format!("{}:{}/{interface}", name.namespace, name.name);
            if full == HANDLER || full == DESCRIBE {
                continue;
            }
            let functions: Vec<&str> = resolve.interfaces[*id].functions.keys().map(String::as_str).collect();
            let (_, known) = OURS.iter().find(|(known, _)| *known == full).unwrap_or_else(|| panic!("{full} is known"));
            assert_eq!(known.to_vec(), functions, "{full}");
        }
    }
}
