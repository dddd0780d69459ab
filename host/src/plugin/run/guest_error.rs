//! Finds the exception or panic that ended a guest in its standard error.
//!
//! Languages with their own runtime report an exception by writing it to standard error and ending the instance. People look
//! for the exception: its message on the first line, then where it was raised. The panic of the runtime does not help them.

/// How Rust reports a panic, after the name of the thread.
const PANICKED: &str = "panicked at ";
/// How Python begins to report an exception.
const TRACEBACK: &str = "Traceback (most recent call last):\n";
/// What Python writes between an exception and one that it caused.
const CHAINED: [&str; 2] = [
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
];
/// How the runtime of Python says that a handler raised an exception.
const PYTHON_RAISED: &str = "Python function threw";
/// How the runtime of JavaScript says that a handler threw an error.
const JAVASCRIPT_THREW: &str = "Exception {";
/// How much is kept of standard error that is neither an exception nor a panic.
const MAX_TAIL_LINES: usize = 10;
const MAX_TAIL_BYTES: usize = 1_024;

/// The exception or panic that ended a guest; `None` if standard error shows neither.
pub(in crate::plugin) fn find_reason(stderr: &str) -> Option<String> {
    let Some((before, panic)) = stderr.rsplit_once(PANICKED) else { return python_exception(stderr) };
    let mut lines = panic.lines();
    let place = lines.next()?.trim_end_matches(':');
    let words = lines.take_while(|line| !line.starts_with("note: ")).collect::<Vec<_>>().join("\n");
    let words = words.trim();
    let reason = match words {
        _ if words.contains(PYTHON_RAISED) => python_exception(before).or_else(|| last_line(before)),
        _ if words.contains(JAVASCRIPT_THREW) => javascript_error(words),
        _ => type_misfit(words),
    };
    Some(reason.unwrap_or_else(|| format!("{PANICKED}{place}: {words}")))
}

/// The last lines of standard error.
pub(in crate::plugin) fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.trim().lines().collect();
    let text = lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].join("\n");
    text[text.ceil_char_boundary(text.len().saturating_sub(MAX_TAIL_BYTES))..].to_owned()
}

/// The last exception of Python, followed by its traceback and those of the exceptions that caused it.
fn python_exception(text: &str) -> Option<String> {
    // Cuts off the beginning of a panic message: `thread 'main' `.
    let text = text.rfind("\nthread '").map_or(text, |end| &text[..end]);
    let last = text.rfind(TRACEBACK)?;
    let frames = &text[last + TRACEBACK.len()..];
    let framed_bytes = frames.split_inclusive('\n').take_while(|line| line.starts_with(' ')).map(str::len).sum();
    let (frames, exception) = frames.split_at(framed_bytes);
    let mut first = last;
    while CHAINED.iter().any(|words| text[..first].trim_end().ends_with(words)) {
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

/// The message and the stack of a JavaScript error.
fn javascript_error(words: &str) -> Option<String> {
    let (_, exception) = words.split_once(JAVASCRIPT_THREW)?;
    let field = |name: &str| {
        let (_, value) = exception.split_once(&format!("{name}: Some("))?;
        read_literal(value.trim_start())
    };
    let message = field("message").filter(|message| !message.trim().is_empty());
    let message = message.unwrap_or_else(|| "an error without a message was thrown".to_owned());
    let stack = field("stack").unwrap_or_default();
    Some(format!("{message}\n{stack}").trim_end().to_owned())
}

/// The message for a JavaScript handler that returned or threw a value that does not fit the interface.
fn type_misfit(words: &str) -> Option<String> {
    let (_, misfit) = words.split_once("FromJs {")?;
    let field = |name: &str| read_literal(misfit.split_once(&format!("{name}: "))?.1);
    let (from, to) = (field("from")?, field("to")?);
    Some(format!(
        "the handler threw or returned a value that does not fit the interface: {from}, where {to} is expected; throw an \
         Error, or one of the failures such as {{ tag: \"reject\", val: \"why\" }}"
    ))
}

/// The text of a string literal in Rust's debug format.
fn read_literal(text: &str) -> Option<String> {
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

    /// What the runtime of Python writes when a handler raises an exception.
    fn raised(before: &str) -> String {
        let panic = "thread '<unnamed>' (1) panicked at runtime/src/lib.rs:1293:29:";
        format!("{before}\n\n{panic}\nPython function threw an unexpected exception\n{NOTE}")
    }

    #[test]
    fn a_python_exception_comes_with_its_traceback() {
        let traceback = "Traceback (most recent call last):\n  File \"/0/app.py\", line 13, in handle";
        let found = find_reason(&raised(&format!("before\n{traceback}\nValueError: the shop is closed\nsecond line")));
        assert_eq!(found.unwrap(), format!("ValueError: the shop is closed\nsecond line\n{traceback}"));

        let chain = "Traceback (most recent call last):\n  File \"/0/app.py\", line 10, in handle\nKeyError: 'x'\n\n\
                     The above exception was the direct cause of the following exception:\n\n\
                     Traceback (most recent call last):\n  File \"/0/app.py\", line 11, in handle";
        let handled = "Traceback (most recent call last):\n  File \"/0/app.py\", line 2, in handle\nOSError: handled\n";
        let found = find_reason(&raised(&format!("{handled}{chain}\nRuntimeError: no x"))).unwrap();
        assert_eq!(found, format!("RuntimeError: no x\n{chain}"), "not what was handled before");
        assert_eq!(find_reason(&raised("KeyError: 'cut'")).unwrap(), "KeyError: 'cut'", "where the beginning is lost");
        assert_eq!(find_reason(&format!("{traceback}\nKeyError: 1\n")).unwrap(), format!("KeyError: 1\n{traceback}"));
    }

    #[test]
    fn a_javascript_error_comes_with_its_stack() {
        let threw = |exception: &str| {
            format!(
                "thread '<unnamed>' (1) panicked at crates/runtime/src/interpreter.rs:51:31:\n\
                 Failed to call 'handle': Value(Exception(\n{exception}\n)\n{NOTE}"
            )
        };
        let stack = "Some(\"    at handle (/handler.js:3:31)\\n\")";
        let found = find_reason(&threw(&format!(
            "Exception {{ message: Some(\"no \\\"name\\\" \\u{{e9}}\\nat all\"), stack: {stack} }})"
        )));
        assert_eq!(found.unwrap(), "no \"name\" é\nat all\n    at handle (/handler.js:3:31)");
        let found = find_reason(&threw(&format!("Exception {{ message: None, stack: {stack} }})"))).unwrap();
        assert!(found.starts_with("an error without a message was thrown\n    at handle"), "{found}");
        let misfit = "thread 'a' panicked at crates/runtime/src/call.rs:283:18:\n\
                      invalid variant: Error(FromJs { from: \"string\", to: \"variant\", message: None })\n";
        let found = find_reason(misfit).unwrap();
        assert!(found.contains("string, where variant is expected"), "{found}");
    }

    #[test]
    fn a_panic_comes_with_its_place_and_other_output_is_cut() {
        let found = find_reason(&format!("first\n\nthread 'a' (1) panicked at src/lib.rs:7:5:\nno such order\n{NOTE}"));
        assert_eq!(found.unwrap(), "panicked at src/lib.rs:7:5: no such order");
        assert_eq!(find_reason("Assertion failed: x > 0 (main.c: f: 3)"), None);
        let long: String = (0..20).map(|n| format!("line {n}\n")).collect();
        assert!(tail(&long).starts_with("line 10\n") && tail(&long).ends_with("line 19"));
        assert!(tail(&"é".repeat(2_000)).len() <= MAX_TAIL_BYTES);
        assert_eq!(tail(""), "");
    }
}
