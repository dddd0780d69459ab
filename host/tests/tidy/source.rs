//! Reads Rust sources just well enough to know which paths a file names.
//!
//! A tokenizer that skips comments and literals, and a pass over the tokens that expands `use` trees, follows `mod` and
//! `super`, and tells test code from the rest. It knows nothing of macros, types or scopes: a path is what is written.

use std::collections::BTreeSet;

/// A path that a file names, such as `crate::event::Event` or `redis::cmd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Starts with `crate` for the package's own modules, else with the name of a foreign crate.
    pub segments: Vec<String>,
    /// The line on which it stands, from 1.
    pub line: usize,
    /// Whether it stands in a module that only tests compile.
    pub in_test: bool,
}

/// What a file names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Every path of at least two segments whose first one is not a local name.
    pub paths: Vec<Named>,
    /// Modules in files of their own that only tests compile, as `crate::...`.
    pub test_modules: Vec<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Word(String),
    /// `::`
    Separator,
    Other(char),
}

struct Token {
    kind: Kind,
    line: usize,
}

impl Token {
    fn is(&self, c: char) -> bool {
        self.kind == Kind::Other(c)
    }

    fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Reads a file. `module` is where it stands, without `crate`: `["broker", "redis"]`.
pub fn read(text: &str, module: &[String]) -> Source {
    let tokens = tokenize(text);
    let mut reader = Reader { tokens: &tokens, at: 0, module: module.to_vec(), ..Reader::default() };
    reader.read();
    let locals = reader.locals;
    reader.source.paths.retain(|named| named.segments.len() > 1 && !locals.contains(&named.segments[0]));
    reader.source
}

#[derive(Default)]
struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    module: Vec<String>,
    depth: usize,
    /// Inline modules that are open: the depth of their brace, and whether only tests compile them.
    open: Vec<(usize, bool)>,
    locals: BTreeSet<String>,
    source: Source,
}

impl Reader<'_> {
    fn read(&mut self) {
        let mut next_is_test = false;
        while let Some(token) = self.tokens.get(self.at) {
            match &token.kind {
                Kind::Other('#') => {
                    next_is_test |= self.attribute_means_test();
                    continue;
                }
                Kind::Other('{') => self.depth += 1,
                Kind::Other('}') => self.close(),
                Kind::Word(word) if word == "use" => {
                    self.at += 1;
                    self.use_tree(&[]);
                    next_is_test = false;
                    continue;
                }
                Kind::Word(word) if word == "mod" => {
                    self.module(next_is_test);
                    next_is_test = false;
                    continue;
                }
                Kind::Word(_) | Kind::Separator => {
                    self.inline_path();
                    continue;
                }
                Kind::Other(';') => next_is_test = false,
                Kind::Other(_) => {}
            }
            self.at += 1;
        }
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.open.last().is_some_and(|(depth, _)| *depth == self.depth) {
            self.open.pop();
            self.module.pop();
        }
    }

    /// Steps over `#[...]` and says whether it is a `cfg` that is true in tests.
    fn attribute_means_test(&mut self) -> bool {
        self.at += 1;
        if self.tokens.get(self.at).is_some_and(|token| token.is('!')) {
            self.at += 1;
        }
        if !self.tokens.get(self.at).is_some_and(|token| token.is('[')) {
            return false;
        }
        let (mut depth, mut words) = (0, Vec::new());
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            depth += usize::from(token.is('['));
            depth -= usize::from(token.is(']'));
            words.extend(token.word());
            if depth == 0 {
                break;
            }
        }
        words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not")
    }

    fn module(&mut self, is_test: bool) {
        let name = self.tokens.get(self.at + 1).and_then(Token::word).map(str::to_owned);
        self.at += 2;
        let Some(name) = name else { return };
        self.locals.insert(name.clone());
        if self.tokens.get(self.at).is_some_and(|token| token.is('{')) {
            self.open.push((self.depth, is_test || self.in_test()));
            self.module.push(name);
            self.depth += 1;
            self.at += 1;
        } else if is_test {
            let mut path = vec!["crate".to_owned()];
            path.extend(self.module.iter().cloned().chain([name]));
            self.source.test_modules.push(path);
        }
    }

    /// Reads a `use` tree from where it stands; each leaf is a path.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            match &token.kind {
                Kind::Word(word) if word == "as" => {
                    let alias = self.tokens.get(self.at).and_then(Token::word).unwrap_or_default();
                    self.locals.insert(alias.to_owned());
                    self.at += 1;
                    return self.leaf(path, line, false);
                }
                Kind::Word(word) if word == "self" && !prefix.is_empty() && path.len() == prefix.len() => {}
                Kind::Word(word) => path.push(word.clone()),
                Kind::Separator => {}
                Kind::Other('{') => {
                    while self.tokens.get(self.at).is_some_and(|token| !token.is('}')) {
                        self.use_tree(&path);
                        if self.tokens.get(self.at).is_some_and(|token| token.is(',')) {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                Kind::Other('*') => return self.leaf(path, line, false),
                Kind::Other(_) => {
                    // `,`, `}` or `;`: the end of this leaf, left for whoever asked for the tree.
                    self.at -= 1;
                    return self.leaf(path, line, true);
                }
            }
        }
    }

    fn leaf(&mut self, path: Vec<String>, line: usize, is_named: bool) {
        if is_named
            && path.len() > 1
            && let Some(last) = path.last()
        {
            self.locals.insert(last.clone());
        }
        // The whole crate imported by one segment is a path of interest as well: `use redis;`.
        let padded = if path.len() == 1 { [path, vec!["self".to_owned()]].concat() } else { path };
        self.name(padded, line);
    }

    fn inline_path(&mut self) {
        let line = self.tokens[self.at].line;
        // `<T as Trait>::Item::new`: what follows the bracket belongs to a type, not to a crate.
        let of_a_type = self.at > 0 && self.tokens[self.at].kind == Kind::Separator && self.tokens[self.at - 1].is('>');
        let mut path = Vec::new();
        while let Some(token) = self.tokens.get(self.at) {
            match &token.kind {
                Kind::Word(word) if path.is_empty() || self.tokens[self.at - 1].kind == Kind::Separator => {
                    path.push(word.clone());
                }
                Kind::Separator => {}
                _ => break,
            }
            self.at += 1;
        }
        if !of_a_type {
            self.name(path, line);
        }
    }

    fn in_test(&self) -> bool {
        self.open.last().is_some_and(|(_, is_test)| *is_test)
    }

    /// Keeps a path, with `self` and `super` resolved.
    fn name(&mut self, path: Vec<String>, line: usize) {
        let mut base = self.module.clone();
        let relative = path.iter().take_while(|segment| *segment == "self" || *segment == "super").count();
        for segment in &path[..relative] {
            if segment == "super" {
                base.pop();
            }
        }
        let segments = match relative {
            0 => path,
            _ => ["crate".to_owned()].into_iter().chain(base).chain(path[relative..].iter().cloned()).collect(),
        };
        let in_test = self.in_test();
        self.source.paths.push(Named { segments, line, in_test });
    }
}

fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut line, mut tokens) = (0, 1, Vec::new());
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let begun = at;
        match chars[at] {
            '/' if peek(at + 1) == '/' => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1
                }
            }
            '/' if peek(at + 1) == '*' => at = end_of_comment(&chars, at),
            '"' => at = end_of_string(&chars, at),
            '\'' if peek(at + 1) == '\\' || peek(at + 2) == '\'' => {
                at += if peek(at + 1) == '\\' { 3 } else { 2 };
                while at < chars.len() && chars[at] != '\'' {
                    at += 1
                }
                at += 1;
            }
            c if c.is_alphabetic() || c == '_' => {
                while peek(at).is_alphanumeric() || peek(at) == '_' {
                    at += 1
                }
                let word: String = chars[begun..at].iter().collect();
                if matches!(word.as_str(), "r" | "br" | "cr") && matches!(peek(at), '"' | '#') && is_raw(&chars, at) {
                    at = end_of_raw_string(&chars, at);
                } else if !matches!(word.as_str(), "b" | "c") || peek(at) != '"' {
                    tokens.push(Token { kind: Kind::Word(word), line });
                }
            }
            ':' if peek(at + 1) == ':' => {
                at += 2;
                tokens.push(Token { kind: Kind::Separator, line });
            }
            c => {
                at += 1;
                if !c.is_whitespace() && !c.is_ascii_digit() {
                    tokens.push(Token { kind: Kind::Other(c), line });
                }
            }
        }
        line += chars[begun..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn end_of_comment(chars: &[char], begun: usize) -> usize {
    let (mut at, mut depth) = (begun, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(chars: &[char], begun: usize) -> usize {
    let mut at = begun + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn is_raw(chars: &[char], at: usize) -> bool {
    chars[at..].iter().find(|c| **c != '#') == Some(&'"')
}

fn end_of_raw_string(chars: &[char], begun: usize) -> usize {
    let hashes = chars[begun..].iter().take_while(|c| **c == '#').count();
    let mut at = begun + hashes + 1;
    while at < chars.len() {
        let closes = chars[at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
        at += 1;
        if closes {
            return at + hashes;
        }
    }
    at
}

#[test]
fn paths_are_found_wherever_they_are_written() {
    let text = r##"
        //! redis::in_a_comment
        use crate::{event::{self, Event as Fact}, broker};
        use super::keys::Key;
        use axum;
        const TEXT: &str = "redis::in_a_string"; const RAW: &str = r#"redis::"raw""#; const C: char = '"';
        fn act<'a>(event: &'a Fact) { event::act(); tokio::spawn(async { redis::cmd("GET") }); broker::open(); <u8 as A>::b::c(); }
        #[cfg(test)]
        mod tests { use super::*; fn check() { toml::from_str("x"); } }
        #[cfg(test)]
        mod fakes;
        fn last() { self::tests::check() }
    "##;
    let source = read(text, &["broker".into(), "redis".into()]);
    let found: Vec<(String, bool)> = source.paths.iter().map(|n| (n.segments.join("::"), n.in_test)).collect();
    let expected = [
        ("crate::event", false),
        ("crate::event::Event", false),
        ("crate::broker", false),
        ("crate::broker::keys::Key", false),
        ("axum::self", false),
        ("tokio::spawn", false),
        ("redis::cmd", false),
        ("crate::broker::redis", true),
        ("toml::from_str", true),
        ("crate::broker::redis::tests::check", false),
    ];
    let expected: Vec<(String, bool)> = expected.map(|(path, in_test)| (path.to_owned(), in_test)).into();
    assert_eq!(found, expected);
    assert_eq!(source.test_modules, [["crate", "broker", "redis", "fakes"].map(String::from).to_vec()]);
}
