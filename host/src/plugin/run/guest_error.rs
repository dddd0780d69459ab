//! Why a guest died, in its own words: what it wrote to its standard error before it did.
//!
//! Languages that bring a runtime of their own report an exception by writing it down and then ending the whole instance.
//! What a person looks for is the exception: its message on the first line, and below it where it was raised. That the
//! runtime then panicked says nothing.

/// How Rust begins to tell of a panic, after the name of the thread.
const PANICKED: &str = "panicked at ";
/// How Python begins to tell of an exception.
const TRACEBACK: &str = "Traceback (most recent call last):\n";
/// What stands between an exception of Python and another one that followed from it.
const FOLLOWED: [&str; 2] = [
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
];
/// How the runtime of Python says that a handler raised an exception.
const PYTHON_RAISED: &str = "Python function threw";
/// How the runtime of JavaScript says that a handler threw an error.
const JAVASCRIPT_THREW: &str = "Exception {";
/// The most that is told of words that are not understood.
const MAX_SAID_LINES: usize = 10;
const MAX_SAID_BYTES: usize = 1_024;

/// The exception or the panic that ended a guest; `None` if its words are of neither.
pub(in crate::plugin) fn reason(stderr: &str) -> Option<String> {
    let Some((before, panic)) = stderr.rsplit_once(PANICKED) else { return python(stderr) };
    let mut lines = panic.lines();
    let place = lines.next()?.trim_end_matches(':');
    let words = lines.take_while(|line| !line.starts_with("note: ")).collect::<Vec<_>>().join("\n");
    let words = words.trim();
    let told = match words {
        _ if words.contains(PYTHON_RAISED) => python(before).or_else(|| last_line(before)),
        _ if words.contains(JAVASCRIPT_THREW) => javascript(words),
        _ => misfit(words),
    };
    Some(told.unwrap_or_else(|| format!("{PANICKED}{place}: {words}")))
}

/// The end of what a guest wrote, for a death of another kind.
pub(in crate::plugin) fn said(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.trim().lines().collect();
    let text = lines[lines.len().saturating_sub(MAX_SAID_LINES)..].join("\n");
    text[text.ceil_char_boundary(text.len().saturating_sub(MAX_SAID_BYTES))..].to_owned()
}

/// The last exception of Python, and below it the traceback, with those that it followed from.
fn python(text: &str) -> Option<String> {
    // What follows is the beginning of a panic: `thread 'main' `.
    let text = text.rfind("\nthread '").map_or(text, |end| &text[..end]);
    let last = text.rfind(TRACEBACK)?;
    let frames = &text[last + TRACEBACK.len()..];
    let framed_bytes = frames.split_inclusive('\n').take_while(|line| line.starts_with(' ')).map(str::len).sum();
    let (frames, exception) = frames.split_at(framed_bytes);
    let mut first = last;
    while FOLLOWED.iter().any(|words| text[..first].trim_end().ends_with(words)) {
        let Some(earlier) = text[..first].rfind(TRACEBACK) else { break };
        first = earlier;
    }
    let exception = Some(exception.trim()).filter(|exception| !exception.is_empty())?;
    Some(format!("{exception}\n{}{}", &text[first..last + TRACEBACK.len()], frames.trim_end()))
}

fn last_line(text: &str) -> Option<String> {
    let lines = text.lines().rev().filter(|line| !line.starts_with("thread '"));
    lines.map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// The message and the stack of an error of JavaScript.
fn javascript(words: &str) -> Option<String> {
    let (_, exception) = words.split_once(JAVASCRIPT_THREW)?;
    let field = |name: &str| {
        let (_, value) = exception.split_once(&format!("{name}: Some("))?;
        literal(value.trim_start())
    };
    let message = field("message").filter(|message| !message.trim().is_empty());
    let message = message.unwrap_or_else(|| "an error without a message was thrown".to_owned());
    let stack = field("stack").unwrap_or_default();
    Some(format!("{message}\n{stack}").trim_end().to_owned())
}

/// What a handler in JavaScript gave that is no value of the interface.
fn misfit(words: &str) -> Option<String> {
    let (_, misfit) = words.split_once("FromJs {")?;
    let field = |name: &str| literal(misfit.split_once(&format!("{name}: "))?.1);
    let (from, to) = (field("from")?, field("to")?);
    Some(format!(
        "the handler threw or returned what does not fit the interface: {from}, where {to} is expected; throw an Error, or \
         one of the failures such as {{ tag: \"reject\", val: \"why\" }}"
    ))
}

/// The text of a literal as Rust writes one for debugging.
fn literal(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('"')?.chars();
    let mut read = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(read),
            '\\' => read.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'u' => {
                    let digits: String = chars.by_ref().skip(1).take_while(|char| *char != '}').collect();
                    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)?
                }
                other => other,
            }),
            other => read.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";

    /// What the runtime of Python leaves when a handler raised an exception.
    fn raised(before: &str) -> String {
        let panic = "thread '<unnamed>' (1) panicked at runtime/src/lib.rs:1293:29:";
        format!("{before}\n\n{panic}\nPython function threw an unexpected exception\n{NOTE}")
    }

    #[test]
    fn an_exception_of_python_is_told_with_its_traceback() {
        let traceback = "Traceback (most recent call last):\n  File \"/0/app.py\", line 13, in handle";
        let told = reason(&raised(&format!("before\n{traceback}\nValueError: the shop is closed\nsecond line")));
        assert_eq!(told.unwrap(), format!("ValueError: the shop is closed\nsecond line\n{traceback}"));

        let chain = "Traceback (most recent call last):\n  File \"/0/app.py\", line 10, in handle\nKeyError: 'x'\n\n\
                     The above exception was the direct cause of the following exception:\n\n\
                     Traceback (most recent call last):\n  File \"/0/app.py\", line 11, in handle";
        let handled = "Traceback (most recent call last):\n  File \"/0/app.py\", line 2, in handle\nOSError: handled\n";
        let told = reason(&raised(&format!("{handled}{chain}\nRuntimeError: no x"))).unwrap();
        assert_eq!(told, format!("RuntimeError: no x\n{chain}"), "not what was handled before");
        assert_eq!(reason(&raised("KeyError: 'cut'")).unwrap(), "KeyError: 'cut'", "where the beginning is lost");
        assert_eq!(reason(&format!("{traceback}\nKeyError: 1\n")).unwrap(), format!("KeyError: 1\n{traceback}"));
    }

    #[test]
    fn an_error_of_javascript_is_told_with_its_stack() {
        let threw = |exception: &str| {
            format!(
                "thread '<unnamed>' (1) panicked at crates/runtime/src/interpreter.rs:51:31:\n\
                 Failed to call 'handle': Value(Exception(\n{exception}\n)\n{NOTE}"
            )
        };
        let stack = "Some(\"    at handle (/handler.js:3:31)\\n\")";
        let told = reason(&threw(&format!(
            "Exception {{ message: Some(\"no \\\"name\\\" \\u{{e9}}\\nat all\"), stack: {stack} }})"
        )));
        assert_eq!(told.unwrap(), "no \"name\" é\nat all\n    at handle (/handler.js:3:31)");
        let told = reason(&threw(&format!("Exception {{ message: None, stack: {stack} }})"))).unwrap();
        assert!(told.starts_with("an error without a message was thrown\n    at handle"), "{told}");
        let misfit = "thread 'a' panicked at crates/runtime/src/call.rs:283:18:\n\
                      invalid variant: Error(FromJs { from: \"string\", to: \"variant\", message: None })\n";
        let told = reason(misfit).unwrap();
        assert!(told.contains("string, where variant is expected"), "{told}");
    }

    #[test]
    fn a_panic_is_told_with_its_place_and_other_words_as_they_are() {
        let told = reason(&format!("first\n\nthread 'a' (1) panicked at src/lib.rs:7:5:\nno such order\n{NOTE}"));
        assert_eq!(told.unwrap(), "panicked at src/lib.rs:7:5: no such order");
        assert_eq!(reason("Assertion failed: x > 0 (main.c: f: 3)"), None);
        let long: String = (0..20).map(|n| format!("line {n}\n")).collect();
        assert!(said(&long).starts_with("line 10\n") && said(&long).ends_with("line 19"));
        assert!(said(&"é".repeat(2_000)).len() <= MAX_SAID_BYTES);
        assert_eq!(said(""), "");
    }
}
