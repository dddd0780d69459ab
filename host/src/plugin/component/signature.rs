//! Signatures of functions, written out in WIT: of those that this host knows, and of those of a component.
//!
//! Types of components are equal by structure, not by name. The text of a signature has the whole structure, down to the last
//! field, so two signatures are equal if their texts are. Of a resource only the kind of handle counts.
//!
//! The types of a component form a graph that can be huge when it is written out. Twenty nested tuples of two equal types
//! hold a million of them. So a text ends at a limit, and ours are shorter.

use wasmtime::component::types::{ComponentFunc, Type};
use wit_parser::{Function, Handle, Interface, Resolve, Type as WitType, TypeDefKind};

/// The longest text of one signature, in bytes. A test checks that all of ours are shorter.
const MAX_BYTES: usize = 2_048;

/// The WIT files of our interfaces and of those of other hosts.
const FILES: [(&str, &str); 5] = [
    ("plugin.wit", include_str!("../../../../wit/plugin.wit")),
    ("wasi-messaging.wit", include_str!("../dialect/wit/wasi-messaging.wit")),
    ("wasmcloud-messaging.wit", include_str!("../dialect/wit/wasmcloud-messaging.wit")),
    ("spin.wit", include_str!("../dialect/wit/spin.wit")),
    ("spin-variables.wit", include_str!("../dialect/wit/spin-variables.wit")),
];

/// The interfaces that this host knows: those that it offers, and those that it calls.
pub(super) struct KnownInterfaces {
    resolve: Resolve,
}

impl KnownInterfaces {
    /// Parses the files. One that cannot be parsed is left out and logged; a test checks that there is none.
    pub(super) fn read() -> Self {
        let mut resolve = Resolve::default();
        for (path, contents) in FILES {
            if let Err(error) = resolve.push_source(path, contents) {
                tracing::error!("{path} cannot be read: {error:#}");
            }
        }
        Self { resolve }
    }

    /// An interface by its name without a version, and its version. The version is empty if there is none.
    pub(super) fn find(&self, interface: &str) -> Option<(String, &Interface)> {
        self.resolve.interfaces.iter().find_map(|(id, found)| {
            let full = self.resolve.id_of(id)?;
            let (name, version) = full.split_once('@').unwrap_or((&full, ""));
            (name == interface).then(|| (version.to_owned(), found))
        })
    }

    /// The functions of an interface, by its name without a version; none if it is not known.
    pub(super) fn functions(&self, interface: &str) -> impl Iterator<Item = &Function> {
        self.find(interface).into_iter().flat_map(|(_, found)| found.functions.values())
    }

    /// The signature of one of our functions.
    pub(super) fn signature(&self, function: &Function) -> String {
        let mut words = SignatureText::default();
        let params = function.params.iter().map(|param| (param.name.as_str(), param.ty));
        words.signature(function.kind.is_async(), params, function.result, |words, ty| self.write(words, &ty));
        words.text
    }

    fn write(&self, words: &mut SignatureText, wit: &WitType) {
        let id = match wit {
            WitType::Bool => return words.push("bool"),
            WitType::U8 => return words.push("u8"),
            WitType::U16 => return words.push("u16"),
            WitType::U32 => return words.push("u32"),
            WitType::U64 => return words.push("u64"),
            WitType::S8 => return words.push("s8"),
            WitType::S16 => return words.push("s16"),
            WitType::S32 => return words.push("s32"),
            WitType::S64 => return words.push("s64"),
            WitType::F32 => return words.push("f32"),
            WitType::F64 => return words.push("f64"),
            WitType::Char => return words.push("char"),
            WitType::String => return words.push("string"),
            WitType::ErrorContext => return words.push("error-context"),
            WitType::Id(id) => *id,
        };
        let each = |words: &mut SignatureText, ty: &WitType| self.write(words, ty);
        match &self.resolve.types[id].kind {
            TypeDefKind::Type(inner) => each(words, inner),
            TypeDefKind::Record(record) => {
                words.record(record.fields.iter().map(|field| (field.name.as_str(), &field.ty)), each);
            }
            TypeDefKind::Variant(variant) => {
                words.variant(variant.cases.iter().map(|case| (case.name.as_str(), case.ty.as_ref())), each);
            }
            TypeDefKind::Enum(names) => words.named("enum", names.cases.iter().map(|case| case.name.as_str())),
            TypeDefKind::Flags(names) => words.named("flags", names.flags.iter().map(|flag| flag.name.as_str())),
            TypeDefKind::Tuple(tuple) => words.of("tuple", tuple.types.iter(), each),
            TypeDefKind::Option(inner) => words.of("option", [inner], each),
            TypeDefKind::List(inner) => words.of("list", [inner], each),
            TypeDefKind::Result(result) => words.result(result.ok.as_ref(), result.err.as_ref(), each),
            TypeDefKind::Handle(Handle::Own(_)) => words.push("own<resource>"),
            TypeDefKind::Handle(Handle::Borrow(_)) => words.push("borrow<resource>"),
            other => words.push(other.as_str()),
        }
    }
}

/// The signature of a function that a component imports or exports, cut at the limit.
pub(super) fn of_component(function: &ComponentFunc) -> String {
    let mut words = SignatureText::default();
    words.signature(function.async_(), function.params(), function.results().next(), |words, ty| write(words, &ty));
    words.text
}

fn write(words: &mut SignatureText, ty: &Type) {
    let each = |words: &mut SignatureText, ty: Type| write(words, &ty);
    match ty {
        Type::Bool => words.push("bool"),
        Type::U8 => words.push("u8"),
        Type::U16 => words.push("u16"),
        Type::U32 => words.push("u32"),
        Type::U64 => words.push("u64"),
        Type::S8 => words.push("s8"),
        Type::S16 => words.push("s16"),
        Type::S32 => words.push("s32"),
        Type::S64 => words.push("s64"),
        Type::Float32 => words.push("f32"),
        Type::Float64 => words.push("f64"),
        Type::Char => words.push("char"),
        Type::String => words.push("string"),
        Type::Record(record) => words.record(record.fields().map(|field| (field.name, field.ty)), each),
        Type::Variant(variant) => words.variant(variant.cases().map(|case| (case.name, case.ty)), each),
        Type::Enum(names) => words.named("enum", names.names()),
        Type::Flags(names) => words.named("flags", names.names()),
        Type::Tuple(tuple) => words.of("tuple", tuple.types(), each),
        Type::Option(inner) => words.of("option", [inner.ty()], each),
        Type::List(inner) => words.of("list", [inner.ty()], each),
        Type::Result(result) => words.result(result.ok(), result.err(), each),
        Type::Own(_) => words.push("own<resource>"),
        Type::Borrow(_) => words.push("borrow<resource>"),
        Type::Map(_) => words.push("map"),
        Type::Future(_) => words.push("future"),
        Type::Stream(_) => words.push("stream"),
        Type::ErrorContext => words.push("error-context"),
        Type::FixedLengthList(_) => words.push("fixed-length list"),
    }
}

/// A text that ends at [`MAX_BYTES`]. Once it is cut, no further type is visited.
#[derive(Default)]
struct SignatureText {
    text: String,
    is_cut: bool,
}

impl SignatureText {
    fn push(&mut self, more: &str) {
        if self.is_cut {
            return;
        }
        let end = more.floor_char_boundary(MAX_BYTES - self.text.len());
        self.text.push_str(&more[..end]);
        if end < more.len() {
            self.text.push('…');
            self.is_cut = true;
        }
    }

    fn separated<T>(&mut self, items: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Self, T)) {
        for (n, item) in items.into_iter().enumerate() {
            if self.is_cut {
                return;
            }
            if n > 0 {
                self.push(", ");
            }
            each(self, item);
        }
    }

    fn signature<'a, T>(
        &mut self,
        is_async: bool,
        params: impl Iterator<Item = (&'a str, T)>,
        result: Option<T>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        self.push(if is_async { "async func(" } else { "func(" });
        self.fields(params, &mut each);
        self.push(")");
        if let Some(result) = result {
            self.push(" -> ");
            each(self, result);
        }
    }

    fn fields<'a, T>(&mut self, fields: impl Iterator<Item = (&'a str, T)>, mut each: impl FnMut(&mut Self, T)) {
        self.separated(fields, |words, (name, ty)| {
            words.push(name);
            words.push(": ");
            each(words, ty);
        });
    }

    fn record<'a, T>(&mut self, fields: impl Iterator<Item = (&'a str, T)>, each: impl FnMut(&mut Self, T)) {
        self.push("record { ");
        self.fields(fields, each);
        self.push(" }");
    }

    fn variant<'a, T>(
        &mut self,
        cases: impl Iterator<Item = (&'a str, Option<T>)>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        self.push("variant { ");
        self.separated(cases, |words, (name, payload)| {
            words.push(name);
            if let Some(payload) = payload {
                words.push("(");
                each(words, payload);
                words.push(")");
            }
        });
        self.push(" }");
    }

    fn result<T>(&mut self, ok: Option<T>, err: Option<T>, mut each: impl FnMut(&mut Self, T)) {
        let is_bare = ok.is_none() && err.is_none();
        self.push(if is_bare { "result" } else { "result<" });
        match (ok, &err) {
            (Some(ok), _) => each(self, ok),
            (None, Some(_)) => self.push("_"),
            (None, None) => {}
        }
        if let Some(err) = err {
            self.push(", ");
            each(self, err);
        }
        self.push(if is_bare { "" } else { ">" });
    }

    fn named<'a>(&mut self, kind: &str, names: impl Iterator<Item = &'a str>) {
        self.push(kind);
        self.push(" { ");
        self.separated(names, |words, name| words.push(name));
        self.push(" }");
    }

    fn of<T>(&mut self, kind: &str, inner: impl IntoIterator<Item = T>, each: impl FnMut(&mut Self, T)) {
        self.push(kind);
        self.push("<");
        self.separated(inner, each);
        self.push(">");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_this_host_are_written_out_in_full() {
        let known = KnownInterfaces::read();
        for interface in known.resolve.interfaces.iter().map(|(_, interface)| interface) {
            for function in interface.functions.values() {
                let words = known.signature(function);
                assert!(!words.contains('…'), "{words}");
            }
        }
    }

    #[test]
    fn a_text_is_cut_at_its_limit_between_characters() {
        let mut words = SignatureText::default();
        let (mut visited, name) = (0, "é".repeat(100));
        words.separated(0..1_000_000, |words, _| {
            visited += 1;
            words.push(&name);
        });
        assert!(words.text.len() <= MAX_BYTES + '…'.len_utf8() && words.text.ends_with("é…"), "{}", words.text);
        assert!(visited < 20, "{visited} were visited");
    }
}
