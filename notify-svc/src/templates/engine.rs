//! Compiling and rendering the parts of templates, within bounds that hold for hostile ones.

use std::collections::HashSet;
use std::sync::LazyLock;

use minijinja::machinery::{Instruction, Token, get_compiled_template, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, HtmlEscape, Output, State, UndefinedBehavior};

use super::{CheckError, LARGEST_PART, LONGEST_NAME, Part, RenderError};

/// What rendering one part may use up: one for an instruction, one for 64 bytes that are made or looked at. So a part makes at most 2 MB;
/// the largest HTML uses 4096 for its bytes.
const FUEL: u64 = 30_000;

/// Names and signs between `{{` and `}}` or `{%` and `%}`. The parser bounds how deep brackets are nested but not how long a chain such as
/// `x+1+1+1` is, and a chain is a recursion too: at some 4000 links it overflows the stack of a thread, which ends the process.
const MOST_TOKENS: usize = 256;
/// `elif` in a part: each lies within the one before.
const MOST_ELIFS: usize = 64;
/// `set` in a part: each may wrap what the one before made, and dropping a deep value is a recursion too.
const MOST_SETS: usize = 64;

/// Escaping is done where values are printed, out of the template's reach: the first ones would only look as if they had a say. The others
/// build values inside values, which serves no notification.
const REMOVED_FILTERS: [&str; 17] = [
    "safe",
    "escape",
    "e",
    "pprint",
    "chain",
    "zip",
    "map",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "groupby",
    "batch",
    "slice",
    "attr",
    "dictsort",
    "reverse",
];
/// The first prints all variables, the others put values into values.
const REMOVED_GLOBALS: [&str; 3] = ["debug", "dict", "namespace"];

/// For the parts that are plain text.
pub(super) static TEXT: LazyLock<Environment<'static>> = LazyLock::new(|| environment(print_text));

/// For HTML.
pub(super) static MARKUP: LazyLock<Environment<'static>> = LazyLock::new(|| environment(print_markup));

fn environment(print: fn(&mut Output, &mut State, &Value) -> Result<(), Error>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    // So that errors name the variable that is missing.
    environment.set_debug(true);
    for filter in REMOVED_FILTERS {
        environment.remove_filter(filter);
    }
    for global in REMOVED_GLOBALS {
        environment.remove_global(global);
    }
    environment.add_filter("cut", cut);
    environment.set_formatter(print);
    environment
}

fn print_text(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    match printed(value)? {
        Printed::Nothing => Ok(()),
        Printed::Text(text) => Ok(out.write_str(text)?),
        Printed::Plain => Ok(write!(out, "{value}")?),
    }
}

fn print_markup(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    match printed(value)? {
        Printed::Nothing => Ok(()),
        Printed::Text(text) => Ok(write!(out, "{}", HtmlEscape(text))?),
        Printed::Plain => Ok(write!(out, "{value}")?),
    }
}

enum Printed<'a> {
    Nothing,
    Text(&'a str),
    /// A number, true or false.
    Plain,
}

fn printed(value: &Value) -> Result<Printed<'_>, Error> {
    match value.kind() {
        // A variable that is missing is an error before it comes here; this is the lacking else of `a if b`.
        ValueKind::Undefined | ValueKind::None => Ok(Printed::Nothing),
        ValueKind::Bool | ValueKind::Number => Ok(Printed::Plain),
        kind => value.as_str().map(Printed::Text).ok_or_else(|| {
            // Nobody should read the inside of a list, and a list of lists of lists can be longer than memory.
            Error::new(ErrorKind::InvalidOperation, format!("a {kind} cannot be printed"))
        }),
    }
}

/// The first `most` characters of a text, the last of them `…` if there were more.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    if most > 0 {
        cut.push('…');
    }
    cut
}

/// At most `most` bytes of `text`, `…` at their end if there were more.
pub(super) fn cut_to_bytes(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub('…'.len_utf8()));
    let mut cut = text.get(..end).unwrap_or_default().to_owned();
    cut.push('…');
    cut
}

/// A part ready to be rendered.
fn compiled<'a>(part: Part, text: &'a str) -> Result<minijinja::Template<'a, 'a>, Fault> {
    bounded(text)?;
    let environment: &'a Environment<'a> = part.environment();
    let template = environment.template_from_named_str(part.name(), text)?;
    // Two references to one list in a list, forty times over, are more to print, compare or drop than there is memory or time, and fuel
    // does not count it. Constants are not built but there, and a list without a length is what a loop with a condition collects.
    let is_built = |instruction: &Instruction| {
        matches!(
            instruction,
            Instruction::BuildList(Some(_)) | Instruction::BuildMap(_) | Instruction::BuildTuple(_)
        )
    };
    let built = instructions(&template).find(|(_, instruction)| is_built(instruction));
    if let Some((line, _)) = built {
        let reason = "a list or map of anything but constants".to_owned();
        return Err(Fault { line, reason });
    }
    Ok(template)
}

/// What a template does, with the line of each step, from 1 or 0 when it is not known.
fn instructions<'t, 'a>(
    template: &'t minijinja::Template<'a, 'a>,
) -> impl Iterator<Item = (usize, &'t Instruction<'a>)> {
    let instructions = &get_compiled_template(template).instructions;
    (0..).map_while(|index| {
        let line = instructions.get_line(index).unwrap_or(0);
        Some((line, instructions.get(index)?))
    })
}

/// Refuses what would be too deep for the compiler's recursion.
fn bounded(text: &str) -> Result<(), Fault> {
    let (mut tokens, mut elifs, mut sets) = (0, 0, 0);
    for token in tokenize(text, false, SyntaxConfig::default()) {
        let (token, span) = token?;
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("elif") => elifs += 1,
            Token::Ident("set") => sets += 1,
            _ => {}
        }
        tokens += 1;
        let reason = if tokens > MOST_TOKENS {
            format!("more than {MOST_TOKENS} names and signs in one tag")
        } else if elifs > MOST_ELIFS {
            format!("more than {MOST_ELIFS} times elif")
        } else if sets > MOST_SETS {
            format!("more than {MOST_SETS} times set")
        } else {
            continue;
        };
        return Err(Fault {
            line: span.start_line.into(),
            reason,
        });
    }
    Ok(())
}

/// What is wrong with a part's text.
struct Fault {
    /// From 1; 0 when it is not known.
    line: usize,
    reason: String,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self {
            line: error.line().unwrap_or(0),
            reason: reason(&error),
        }
    }
}

pub(super) fn check_part(part: Part, text: &str) -> Result<(), CheckError> {
    let environment = part.environment();
    let template =
        compiled(part, text).map_err(|Fault { line, reason }| CheckError::Part { part, line, reason })?;
    // minijinja looks filters, tests and functions up when it comes to them; that would be after it was stored.
    let functions: HashSet<&str> = environment.globals().map(|(name, _)| name).collect();
    let mut state = environment.empty_state();
    for (line, instruction) in instructions(&template) {
        let unknown = match instruction {
            Instruction::ApplyFilter(name, ..) => state
                .apply_filter(name, &[])
                .is_err_and(|error| error.kind() == ErrorKind::UnknownFilter)
                .then(|| format!("there is no filter {name}")),
            Instruction::PerformTest(name, ..) => state
                .perform_test(name, &[])
                .is_err_and(|error| error.kind() == ErrorKind::UnknownTest)
                .then(|| format!("there is no test {name}")),
            // `loop` can be called inside a recursive loop; no variable can, as they come from JSON.
            Instruction::CallFunction(name, ..) if *name != "loop" => {
                (!functions.contains(name)).then(|| format!("there is no function {name}"))
            }
            _ => None,
        };
        if let Some(reason) = unknown {
            return Err(CheckError::Part { part, line, reason });
        }
    }
    Ok(())
}

pub(super) fn render_part(part: Part, text: &str, variables: &Value) -> Result<String, RenderError> {
    if text.len() > LARGEST_PART {
        return Err(RenderError::TooLarge {
            part,
            most: LARGEST_PART,
        });
    }
    let rendered = compiled(part, text)
        .map_err(|Fault { line, reason }| RenderError::Part { part, line, reason })?
        .render(variables.clone())
        .map_err(|error| render_error(part, text, &error))?;
    let rendered = match part {
        Part::Title | Part::Subject => one_line(&rendered),
        Part::Link => rendered.trim().to_owned(),
        Part::Body | Part::Html | Part::Short => rendered,
    };
    let most = part.largest();
    if rendered.len() > most {
        return Err(RenderError::TooLarge { part, most });
    }
    Ok(rendered)
}

fn render_error(part: Part, text: &str, error: &Error) -> RenderError {
    match error.kind() {
        ErrorKind::OutOfFuel => RenderError::TooMuchWork { part },
        ErrorKind::UndefinedError => RenderError::Missing {
            name: missing_name(text, error),
        },
        _ => RenderError::Part {
            part,
            line: error.line().unwrap_or(0),
            reason: reason(error),
        },
    }
}

/// What was undefined: the detail has it between backticks, and where it has not, the place in the template is the next best.
fn missing_name(text: &str, error: &Error) -> String {
    let named = error.detail().and_then(|detail| detail.split('`').nth(1));
    let place = || error.range().and_then(|range| text.get(range));
    let name = named.or_else(place).unwrap_or("(unknown)").trim();
    cut(name, LONGEST_NAME)
}

/// What is wrong, in one short line without the place.
fn reason(error: &Error) -> String {
    let reason = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    cut(&one_line(&reason), 200)
}

/// Line breaks and other control characters become spaces.
pub(super) fn one_line(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| match c {
            // Line and paragraph separator: breaks of lines, though no control characters.
            '\u{2028}' | '\u{2029}' => ' ',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect();
    line.trim().to_owned()
}
