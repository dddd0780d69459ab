//! Splits documentation into sentences and counts their words.

use super::source::DocText;

/// What ends in a point and does not end a sentence.
const ABBREVIATIONS: &[&str] = &["e.g.", "i.e.", "etc.", "cf.", "vs.", "…"];

/// A sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Sentence {
    /// The line on which it begins, from 1.
    pub line: usize,
    /// Its words. Code is one word, whatever stands in it.
    pub words: Vec<String>,
}

/// The sentences of a text. Code blocks and tables have none; each heading and each item of a list begins a new one.
pub fn split_into_sentences(doc: &DocText) -> Vec<Sentence> {
    let (mut sentences, mut in_code_block) = (Vec::new(), false);
    let mut open = Sentence { line: doc.line, words: Vec::new() };
    for (line, text) in (doc.line..).zip(&doc.lines) {
        let text = text.trim();
        if text.starts_with("```") {
            in_code_block = !in_code_block;
        }
        let is_prose = !in_code_block && !text.starts_with("```") && !text.starts_with('|');
        let begins = ["- ", "* ", "#", "> "].iter().any(|mark| text.starts_with(mark)) || is_numbered(text);
        if !is_prose || begins || text.is_empty() {
            close(&mut open, &mut sentences);
        }
        if !is_prose {
            continue;
        }
        for word in split_into_words(text) {
            if open.words.is_empty() {
                open.line = line;
            }
            let ends = ends_a_sentence(&word);
            if word.contains(char::is_alphanumeric) {
                open.words.push(word);
            }
            if ends {
                close(&mut open, &mut sentences);
            }
        }
    }
    close(&mut open, &mut sentences);
    sentences
}

fn close(open: &mut Sentence, sentences: &mut Vec<Sentence>) {
    let sentence = Sentence { line: open.line, words: std::mem::take(&mut open.words) };
    if !sentence.words.is_empty() {
        sentences.push(sentence);
    }
}

/// `1. ` at the beginning of an item.
fn is_numbered(text: &str) -> bool {
    text.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

/// The words of a line, in which code between backticks and the text of a link are not split.
fn split_into_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut in_code) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        in_code ^= c == '`';
        if c.is_whitespace() && !in_code {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(c);
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn ends_a_sentence(word: &str) -> bool {
    let bare = word.trim_end_matches(['"', '\'', ')', ']', '*', '_', '`', '”']);
    bare.ends_with(['.', '!', '?']) && !ABBREVIATIONS.contains(&bare.trim_start_matches('('))
}

#[test]
fn sentences_end_where_a_reader_sees_their_end() {
    let text = "One `a b. c` sentence, e.g. this. A second\none! (A third.)\n\n# Errors\n- an item\n- another\n```\nlet no = 1;\n```\n| a | table |\n1. first";
    let doc = DocText { line: 5, lines: text.lines().map(str::to_owned).collect() };
    let found: Vec<(usize, String)> =
        split_into_sentences(&doc).into_iter().map(|sentence| (sentence.line, sentence.words.join(" "))).collect();
    let expected = [
        (5, "One `a b. c` sentence, e.g. this."),
        (5, "A second one!"),
        (6, "(A third.)"),
        (8, "Errors"),
        (9, "an item"),
        (10, "another"),
        (15, "1."),
        (15, "first"),
    ];
    let expected: Vec<(usize, String)> = expected.map(|(line, text)| (line, text.to_owned())).into();
    assert_eq!(found, expected);
}
