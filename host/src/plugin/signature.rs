//! The signatures of functions in the words of WIT: those that this host knows, and those of a component.
//!
//! Both are written out down to the last field, since types of components are equal by structure and not by name. A
//! resource is no more than its kind of handle.

use wasmtime::component::types::{ComponentFunc, Type};
use wit_parser::{Function, Handle, Resolve, Type as WitType, TypeDefKind};

/// The files in which our interfaces and those of other hosts are written down.
const FILES: [(&str, &str); 5] = [
    ("plugin.wit", include_str!("../../../wit/plugin.wit")),
    ("wasi-messaging.wit", include_str!("dialect/wit/wasi-messaging.wit")),
    ("wasmcloud-messaging.wit", include_str!("dialect/wit/wasmcloud-messaging.wit")),
    ("spin.wit", include_str!("dialect/wit/spin.wit")),
    ("spin-variables.wit", include_str!("dialect/wit/spin-variables.wit")),
];

/// The functions that this host knows by their types.
pub(super) struct Known {
    resolve: Resolve,
}

impl Known {
    /// Reads the files. What cannot be read is not known; a test notices.
    pub(super) fn read() -> Self {
        let mut resolve = Resolve::default();
        for (path, contents) in FILES {
            if let Err(error) = resolve.push_source(path, contents) {
                tracing::error!("{path} cannot be read: {error:#}");
            }
        }
        Self { resolve }
    }

    /// The names and signatures of an interface's functions, by its name without a version; none if it is not known.
    pub(super) fn functions(&self, interface: &str) -> Vec<(&str, String)> {
        let is_it = |id: &wit_parser::InterfaceId| {
            let Some(name) = self.resolve.id_of(*id) else { return false };
            name.split_once('@').map_or(name.as_str(), |(name, _)| name) == interface
        };
        let Some(id) = self.resolve.interfaces.iter().map(|(id, _)| id).find(is_it) else { return Vec::new() };
        let functions = self.resolve.interfaces[id].functions.values();
        functions.map(|function| (function.name.as_str(), self.signature(function))).collect()
    }

    fn signature(&self, function: &Function) -> String {
        let params = function.params.iter().map(|param| (param.name.as_str(), self.words(&param.ty)));
        signature(function.kind.is_async(), params, function.result.map(|result| self.words(&result)))
    }

    fn words(&self, wit: &WitType) -> String {
        let id = match wit {
            WitType::Bool => return "bool".into(),
            WitType::U8 => return "u8".into(),
            WitType::U16 => return "u16".into(),
            WitType::U32 => return "u32".into(),
            WitType::U64 => return "u64".into(),
            WitType::S8 => return "s8".into(),
            WitType::S16 => return "s16".into(),
            WitType::S32 => return "s32".into(),
            WitType::S64 => return "s64".into(),
            WitType::F32 => return "f32".into(),
            WitType::F64 => return "f64".into(),
            WitType::Char => return "char".into(),
            WitType::String => return "string".into(),
            WitType::ErrorContext => return "error-context".into(),
            WitType::Id(id) => *id,
        };
        match &self.resolve.types[id].kind {
            TypeDefKind::Type(inner) => self.words(inner),
            TypeDefKind::Record(record) => {
                record_words(record.fields.iter().map(|field| (field.name.as_str(), self.words(&field.ty))))
            }
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter();
                variant_words(cases.map(|case| (case.name.as_str(), case.ty.map(|payload| self.words(&payload)))))
            }
            TypeDefKind::Enum(names) => named("enum", names.cases.iter().map(|case| case.name.as_str())),
            TypeDefKind::Flags(names) => named("flags", names.flags.iter().map(|flag| flag.name.as_str())),
            TypeDefKind::Tuple(tuple) => of("tuple", tuple.types.iter().map(|inner| self.words(inner))),
            TypeDefKind::Option(inner) => of("option", [self.words(inner)]),
            TypeDefKind::List(inner) => of("list", [self.words(inner)]),
            TypeDefKind::Result(result) => {
                result_words(result.ok.map(|ok| self.words(&ok)), result.err.map(|err| self.words(&err)))
            }
            TypeDefKind::Handle(Handle::Own(_)) => "own<resource>".into(),
            TypeDefKind::Handle(Handle::Borrow(_)) => "borrow<resource>".into(),
            other => other.as_str().into(),
        }
    }
}

/// The signature of a function that a component imports or exports.
pub(super) fn of_component(function: &ComponentFunc) -> String {
    let params = function.params().map(|(name, ty)| (name, words(&ty)));
    signature(function.async_(), params, function.results().next().map(|result| words(&result)))
}

fn words(ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::U8 => "u8".into(),
        Type::U16 => "u16".into(),
        Type::U32 => "u32".into(),
        Type::U64 => "u64".into(),
        Type::S8 => "s8".into(),
        Type::S16 => "s16".into(),
        Type::S32 => "s32".into(),
        Type::S64 => "s64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::Record(record) => record_words(record.fields().map(|field| (field.name, words(&field.ty)))),
        Type::Variant(variant) => {
            variant_words(variant.cases().map(|case| (case.name, case.ty.map(|payload| words(&payload)))))
        }
        Type::Enum(names) => named("enum", names.names()),
        Type::Flags(names) => named("flags", names.names()),
        Type::Tuple(tuple) => of("tuple", tuple.types().map(|inner| words(&inner))),
        Type::Option(inner) => of("option", [words(&inner.ty())]),
        Type::List(inner) => of("list", [words(&inner.ty())]),
        Type::Result(result) => result_words(result.ok().map(|ok| words(&ok)), result.err().map(|err| words(&err))),
        Type::Own(_) => "own<resource>".into(),
        Type::Borrow(_) => "borrow<resource>".into(),
        Type::Map(_) => "map".into(),
        Type::Future(_) => "future".into(),
        Type::Stream(_) => "stream".into(),
        Type::ErrorContext => "error-context".into(),
        Type::FixedLengthList(_) => "fixed-length list".into(),
    }
}

fn signature<'a>(is_async: bool, params: impl Iterator<Item = (&'a str, String)>, result: Option<String>) -> String {
    let params: Vec<String> = params.map(|(name, words)| format!("{name}: {words}")).collect();
    let before = if is_async { "async " } else { "" };
    let after = result.map(|result| format!(" -> {result}")).unwrap_or_default();
    format!("{before}func({}){after}", params.join(", "))
}

fn record_words<'a>(fields: impl Iterator<Item = (&'a str, String)>) -> String {
    let fields: Vec<String> = fields.map(|(name, words)| format!("{name}: {words}")).collect();
    format!("record {{ {} }}", fields.join(", "))
}

fn variant_words<'a>(cases: impl Iterator<Item = (&'a str, Option<String>)>) -> String {
    let cases: Vec<String> = cases
        .map(|(name, payload)| payload.map_or_else(|| name.to_owned(), |payload| format!("{name}({payload})")))
        .collect();
    format!("variant {{ {} }}", cases.join(", "))
}

fn result_words(ok: Option<String>, err: Option<String>) -> String {
    match (ok, err) {
        (None, None) => "result".into(),
        (Some(ok), None) => format!("result<{ok}>"),
        (ok, Some(err)) => format!("result<{}, {err}>", ok.as_deref().unwrap_or("_")),
    }
}

fn named<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> String {
    format!("{kind} {{ {} }}", names.collect::<Vec<_>>().join(", "))
}

fn of(kind: &str, inner: impl IntoIterator<Item = String>) -> String {
    format!("{kind}<{}>", inner.into_iter().collect::<Vec<_>>().join(", "))
}
