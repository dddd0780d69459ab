//! Reads a Rust file with `syn`, as far as the rules ask for it: the paths that it names, the types that it defines, its
//! test switches and its documentation.
//!
//! The tokens of macros are read for paths as well. Types and scopes are not resolved: a path is what is written, with
//! `self`, `super` and the names that the file imports replaced by what they stand for.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Lit, Meta, UseTree, Visibility};

/// A path that a file names, such as `crate::event::Event` or `redis::cmd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath {
    /// Starts with `crate` for the package's own modules, else with the name of a foreign crate.
    pub segments: Vec<String>,
    /// The line on which it stands, from 1.
    pub line: usize,
    /// Whether it stands in an item that only tests compile.
    pub in_test: bool,
}

/// A name that a file hands on with `pub use`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reexport {
    /// The name under which others find it.
    pub name: String,
    /// What it stands for.
    pub path: NamedPath,
}

/// A struct, enum, union, trait or type alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeName {
    /// Its name.
    pub name: String,
    /// The line on which it is defined, from 1.
    pub line: usize,
    /// Whether only tests compile it.
    pub in_test: bool,
}

/// A place that is compiled only with the feature `test-util`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestSwitch {
    /// `mod NAME` for the declaration of a module, `use` for an import, else `code`.
    pub what: String,
    /// The line of the switch, from 1.
    pub line: usize,
}

/// Consecutive lines of documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocText {
    /// The line on which they begin, from 1.
    pub line: usize,
    /// The lines, without their markers.
    pub lines: Vec<String>,
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Every path of at least two segments, apart from those of a `pub use`.
    pub paths: Vec<NamedPath>,
    /// What it hands on.
    pub reexports: Vec<Reexport>,
    /// Modules in files of their own that only tests compile, as `crate::...`.
    pub test_modules: Vec<Vec<String>>,
    /// The types that it defines.
    pub types: Vec<TypeName>,
    /// Its test switches.
    pub test_switches: Vec<TestSwitch>,
    /// Its documentation.
    pub docs: Vec<DocText>,
}

impl Source {
    /// Every path that the file imports or names, those of a `pub use` too.
    pub fn all_paths(&self) -> impl Iterator<Item = &NamedPath> {
        self.paths.iter().chain(self.reexports.iter().map(|handed| &handed.path))
    }
}

/// Reads a file. `module` is where it stands, without `crate`: `["broker", "redis"]`.
///
/// # Errors
/// It is not Rust.
pub fn read(text: &str, module: &[String]) -> syn::Result<Source> {
    let file = syn::parse_file(text)?;
    let mut reader = Reader { module: module.to_vec(), ..Reader::default() };
    reader.visit_file(&file);
    let Reader { locals, mut source, .. } = reader;
    let handed_on = source.reexports.iter_mut().map(|handed| &mut handed.path);
    for named in source.paths.iter_mut().chain(handed_on) {
        // An import may begin with the name of another one.
        for _ in 0..2 {
            if let Some(whole) = locals.get(&named.segments[0]) {
                named.segments.splice(..1, whole.iter().cloned());
            }
        }
    }
    source.paths.retain(|named| named.segments.len() > 1);
    Ok(source)
}

#[derive(Default)]
struct Reader {
    module: Vec<String>,
    in_test: bool,
    /// What an attribute on the item at hand switches; see [`TestSwitch::what`].
    switched: String,
    /// What the names of imports and of child modules stand for.
    locals: BTreeMap<String, Vec<String>>,
    source: Source,
}

impl Reader {
    /// A path with `self` and `super` at its beginning resolved.
    fn resolve(&self, path: &[String]) -> Vec<String> {
        let relative = path.iter().take_while(|segment| *segment == "self" || *segment == "super").count();
        if relative == 0 {
            return path.to_vec();
        }
        let mut base = self.module.clone();
        for _ in path[..relative].iter().filter(|segment| *segment == "super") {
            base.pop();
        }
        ["crate".to_owned()].into_iter().chain(base).chain(path[relative..].iter().cloned()).collect()
    }

    fn add_path(&mut self, path: &[String], line: usize) {
        // `Self::new` is the type at hand.
        if path.first().is_some_and(|first| first != "Self") {
            let segments = self.resolve(path);
            self.source.paths.push(NamedPath { segments, line, in_test: self.in_test });
        }
    }

    fn add_type(&mut self, name: &syn::Ident) {
        let (name, line) = (name.to_string(), line_of(name));
        self.source.types.push(TypeName { name, line, in_test: self.in_test });
    }

    /// Reads a `use` tree; each leaf is a path.
    fn read_use(&mut self, tree: &UseTree, prefix: &[String], is_public: bool) {
        let with = |name: &syn::Ident| prefix.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.read_use(&path.tree, &with(&path.ident), is_public),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.read_use(tree, prefix, is_public)),
            UseTree::Name(name) if name.ident == "self" => {
                let local = prefix.last().cloned().unwrap_or_default();
                self.add_import(prefix.to_vec(), local, line_of(&name.ident), is_public);
            }
            UseTree::Name(name) => {
                self.add_import(with(&name.ident), name.ident.to_string(), line_of(&name.ident), is_public);
            }
            UseTree::Rename(rename) if rename.ident == "self" => {
                self.add_import(prefix.to_vec(), rename.rename.to_string(), line_of(&rename.ident), is_public);
            }
            UseTree::Rename(rename) => {
                self.add_import(with(&rename.ident), rename.rename.to_string(), line_of(&rename.ident), is_public);
            }
            UseTree::Glob(glob) => self.add_path(prefix, glob.star_token.span.start().line),
        }
    }

    fn add_import(&mut self, path: Vec<String>, local: String, line: usize, is_public: bool) {
        let path = self.resolve(&path);
        self.locals.entry(local.clone()).or_insert_with(|| path.clone());
        // `use redis;` names the crate and no more, which is of interest as well.
        let segments = if path.len() == 1 { [path, vec!["self".to_owned()]].concat() } else { path };
        let path = NamedPath { segments, line, in_test: self.in_test };
        if is_public {
            self.source.reexports.push(Reexport { name: local, path });
        } else {
            self.source.paths.push(path);
        }
    }

    fn read_module(&mut self, item: &syn::ItemMod) {
        let mut path = self.resolve(&["self".to_owned()]);
        path.push(item.ident.to_string());
        let is_test = self.in_test || item.attrs.iter().any(is_for_tests);
        self.locals.entry(item.ident.to_string()).or_insert_with(|| path.clone());
        if item.content.is_none() && is_test {
            self.source.test_modules.push(path);
        }
    }

    /// Keeps a condition of the compilation that names the feature `test-util`.
    fn read_condition(&mut self, tokens: &TokenStream, line: usize) {
        if tokens.to_string().contains("\"test-util\"") {
            self.source.test_switches.push(TestSwitch { what: self.switched.clone(), line });
        }
    }

    /// Adds a line of documentation to the lines right above it, or begins a new text.
    fn add_doc(&mut self, line: usize, text: &str) {
        let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned());
        match self.source.docs.last_mut() {
            Some(doc) if doc.line + doc.lines.len() == line => doc.lines.extend(lines),
            _ => self.source.docs.push(DocText { line, lines: lines.collect() }),
        }
    }

    /// Reads the paths in tokens that only a macro understands.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is_punct =
            |at: usize, c: char| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == c);
        let is_separator = |at: usize| is_punct(at, ':') && is_punct(at + 1, ':');
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                // `pub(in crate::broker)` imports nothing.
                TokenTree::Group(_) if at > 0 && is_word(&tokens[at - 1], "pub") => {}
                TokenTree::Group(group) => self.read_tokens(group.stream()),
                TokenTree::Ident(first) => {
                    // What follows `<T as Trait>::` belongs to a type, not to a crate.
                    let of_a_type = at >= 2 && is_separator(at - 2);
                    let line = line_of(first);
                    let mut path = vec![first.to_string()];
                    while is_separator(at + 1)
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if !of_a_type {
                        self.add_path(&path, line);
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let in_test = self.in_test || attributes_of(item).iter().any(is_for_tests);
        let outer_in_test = std::mem::replace(&mut self.in_test, in_test);
        let switched = match item {
            Item::Mod(module) if module.content.is_none() => format!("mod {}", module.ident),
            Item::Use(_) => "use".to_owned(),
            _ => "code".to_owned(),
        };
        let outer_switched = std::mem::replace(&mut self.switched, switched);
        match item {
            Item::Struct(syn::ItemStruct { ident, .. })
            | Item::Enum(syn::ItemEnum { ident, .. })
            | Item::Union(syn::ItemUnion { ident, .. })
            | Item::Trait(syn::ItemTrait { ident, .. })
            | Item::Type(syn::ItemType { ident, .. }) => self.add_type(ident),
            _ => {}
        }
        visit::visit_item(self, item);
        (self.in_test, self.switched) = (outer_in_test, outer_switched);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.read_module(item);
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
        let is_public = !matches!(item.vis, Visibility::Inherited);
        self.read_use(&item.tree, &[], is_public);
    }

    fn visit_type_path(&mut self, path: &'ast syn::TypePath) {
        match &path.qself {
            Some(of_type) => self.visit_qself(of_type),
            None => self.visit_path(&path.path),
        }
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        match &path.qself {
            Some(of_type) => self.visit_qself(of_type),
            None => self.visit_path(&path.path),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path.segments.first().map_or(0, |segment| line_of(&segment.ident));
        self.add_path(&segments, line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, of_macro: &'ast syn::Macro) {
        if of_macro.path.is_ident("cfg") {
            self.read_condition(&of_macro.tokens, of_macro.bang_token.span.start().line);
        }
        self.visit_path(&of_macro.path);
        self.read_tokens(of_macro.tokens.clone());
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {
        // `pub(super)` imports nothing.
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let line = attribute.pound_token.span.start().line;
        match &attribute.meta {
            Meta::NameValue(doc) if doc.path.is_ident("doc") => {
                if let syn::Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) = &doc.value {
                    self.add_doc(line, &text.value());
                }
            }
            Meta::List(list) if list.path.is_ident("cfg") => self.read_condition(&list.tokens, line),
            Meta::List(list) => {
                if list.path.is_ident("cfg_attr") {
                    self.read_condition(&list.tokens, line);
                }
                self.read_tokens(list.tokens.clone());
            }
            _ => {}
        }
    }
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn line_of(name: &syn::Ident) -> usize {
    name.span().start().line
}

/// Whether an attribute is a `cfg` that is true in tests.
fn is_for_tests(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    let mut words = Vec::new();
    collect_words(list.tokens.clone(), &mut words);
    list.path.is_ident("cfg") && words.iter().any(|word| word == "test") && !words.iter().any(|word| word == "not")
}

fn collect_words(tokens: TokenStream, words: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(word) => words.push(word.to_string()),
            TokenTree::Group(group) => collect_words(group.stream(), words),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(syn::ItemConst { attrs, .. })
        | Item::Enum(syn::ItemEnum { attrs, .. })
        | Item::Fn(syn::ItemFn { attrs, .. })
        | Item::Impl(syn::ItemImpl { attrs, .. })
        | Item::Macro(syn::ItemMacro { attrs, .. })
        | Item::Mod(syn::ItemMod { attrs, .. })
        | Item::Static(syn::ItemStatic { attrs, .. })
        | Item::Struct(syn::ItemStruct { attrs, .. })
        | Item::Trait(syn::ItemTrait { attrs, .. })
        | Item::Type(syn::ItemType { attrs, .. })
        | Item::Union(syn::ItemUnion { attrs, .. })
        | Item::Use(syn::ItemUse { attrs, .. }) => attrs,
        _ => &[],
    }
}
