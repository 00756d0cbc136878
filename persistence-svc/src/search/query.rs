//! What is looked for: the language of questions, and what a question means to a store.
//!
//! `two words` must both be there; `"a phrase"` as it stands; `wor*` is the beginning of a word; `-word` and `-"a phrase"` must not be
//! there; `one OR another` is either.

use super::analyser::Analyser;
use super::language::Language;

/// Bytes of a question, at most.
pub const QUERY_BYTES: usize = 1024;

/// Words in a question, at most.
pub const QUERY_WORDS: usize = 32;

/// What is wrong with a question, in words for who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "their words say it")]
pub enum QueryError {
    #[error("the query has {0} bytes, {QUERY_BYTES} are allowed")]
    TooLong(usize),
    #[error("the query has more than {QUERY_WORDS} words")]
    TooManyWords,
    #[error("the query has no word to look for")]
    Nothing,
    #[error("the query only says what must not be there: add a word to look for")]
    OnlyExclusions,
    #[error("a quotation mark in the query is not closed")]
    OpenQuote,
    #[error("* may stand only at the end of a word")]
    Star,
    #[error("a beginning of a word needs at least two letters before its *")]
    ShortPrefix,
    #[error("OR needs a word on each side, and none with a - before it")]
    Or,
}

/// A question: each of its clauses must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// In the order of the question.
    pub clauses: Vec<Clause>,
}

/// Any of these must be there or, where it is negated, none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Excludes.
    pub negated: bool,
    /// Alternatives; never empty, and a single one where it is negated.
    pub any: Vec<Item>,
}

/// Words that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Each as the forms any of which stands for it; never empty.
    pub words: Vec<Vec<String>>,
    /// The last word is the beginning of one. It has one form.
    pub prefix: bool,
}

impl Query {
    /// Reads a question. `language`: of its words only that one's stems count, and not those of all languages that the analyser has.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn parse(text: &str, analyser: &Analyser, language: Option<Language>) -> Result<Self, QueryError> {
        if text.len() > QUERY_BYTES {
            return Err(QueryError::TooLong(text.len()));
        }
        let mut clauses: Vec<Clause> = Vec::new();
        let mut words = 0;
        // The clause before and what comes next are alternatives.
        let mut is_or = false;
        for part in parts(text)? {
            let item = match part {
                Part::Or if is_or => return Err(QueryError::Or),
                Part::Or => {
                    is_or = true;
                    continue;
                }
                Part::Words { text, is_prefix, .. } => item(analyser.question(text, language), is_prefix)?,
            };
            let Part::Words { negated, .. } = part else {
                continue;
            };
            // Signs only: nothing to look for.
            let Some(item) = item else { continue };
            words += item.words.len();
            if words > QUERY_WORDS {
                return Err(QueryError::TooManyWords);
            }
            if std::mem::take(&mut is_or) {
                match clauses.last_mut() {
                    Some(before) if !before.negated && !negated => before.any.push(item),
                    _ => return Err(QueryError::Or),
                }
                continue;
            }
            clauses.push(Clause {
                negated,
                any: vec![item],
            });
        }
        if is_or {
            return Err(QueryError::Or);
        }
        match clauses.iter().any(|clause| !clause.negated) {
            true => Ok(Self { clauses }),
            false if clauses.is_empty() => Err(QueryError::Nothing),
            false => Err(QueryError::OnlyExclusions),
        }
    }

    /// The clauses that must hold.
    pub fn wanted(&self) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().filter(|clause| !clause.negated)
    }
}

impl Clause {
    /// One of its alternatives is the beginning of a word.
    pub(crate) fn has_prefix(&self) -> bool {
        self.any.iter().any(|item| item.prefix)
    }
}

fn item(words: Vec<Vec<String>>, prefix: bool) -> Result<Option<Item>, QueryError> {
    let mut words = words;
    if prefix {
        let Some(last) = words.last_mut() else {
            return Err(QueryError::Star);
        };
        // The word as it is written, not its stem.
        last.truncate(1);
        let letters: usize = words.iter().flatten().map(|form| form.chars().count()).sum();
        if letters < 2 {
            return Err(QueryError::ShortPrefix);
        }
    }
    Ok((!words.is_empty()).then_some(Item { words, prefix }))
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Or,
    Words {
        text: &'a str,
        negated: bool,
        is_prefix: bool,
    },
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, QueryError> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (negated, behind) = match rest.strip_prefix('-') {
            Some(behind) => (true, behind),
            None => (false, rest),
        };
        if let Some(quoted) = behind.strip_prefix(['"', '“', '„', '”']) {
            let (phrase, after) = quoted.split_once(['"', '”', '“']).ok_or(QueryError::OpenQuote)?;
            parts.push(Part::Words {
                text: phrase,
                negated,
                is_prefix: false,
            });
            rest = after.trim_start();
            continue;
        }
        let end = behind
            .find(|letter: char| letter.is_whitespace() || matches!(letter, '"' | '“' | '„' | '”'))
            .unwrap_or(behind.len());
        let (word, after) = behind.split_at_checked(end).unwrap_or((behind, ""));
        rest = after.trim_start();
        if word == "OR" && !negated {
            parts.push(Part::Or);
            continue;
        }
        let (word, is_prefix) = match word.strip_suffix('*') {
            Some(word) => (word, true),
            None => (word, false),
        };
        if word.contains('*') {
            return Err(QueryError::Star);
        }
        parts.push(Part::Words {
            text: word,
            negated,
            is_prefix,
        });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text::Fields;
    use super::*;

    fn analyser() -> Analyser {
        Analyser::new(&[Language::English], Fields::default())
    }

    fn shown(text: &str) -> Result<String, QueryError> {
        let query = Query::parse(text, &analyser(), None)?;
        let item = |item: &Item| {
            let words: Vec<String> = item.words.iter().map(|forms| forms.join("/")).collect();
            format!("{}{}", words.join("+"), if item.prefix { "*" } else { "" })
        };
        let clause = |clause: &Clause| {
            let any: Vec<String> = clause.any.iter().map(item).collect();
            format!("{}{}", if clause.negated { "-" } else { "" }, any.join("|"))
        };
        let clauses: Vec<String> = query.clauses.iter().map(clause).collect();
        Ok(clauses.join(" "))
    }

    #[test]
    fn what_questions_mean() {
        for (text, meaning) in [
            ("Two  words", "two words/word"),
            ("\"big Dogs\" cat", "big+dogs/dog cat"),
            ("cat -dog -\"a mouse\"", "cat -dog -a+mouse/mous"),
            ("runni* x", "runni* x"),
            ("a OR b c", "a|b c"),
            ("a or b", "a or b"),
            ("foo-bar example.co*", "foo+bar example/exampl+co*"),
            ("日本* 東京", "日+本* 東+京"),
            ("a - b & !", "a b"),
            ("“curly quotes” x", "curly/cur+quotes/quot x"),
            ("say\"cheese\"", "say cheese/chees"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(meaning), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, error) in [
            ("", QueryError::Nothing),
            (" ... ", QueryError::Nothing),
            ("-a", QueryError::OnlyExclusions),
            ("a \"b", QueryError::OpenQuote),
            ("*", QueryError::Star),
            ("a*b", QueryError::Star),
            ("a*", QueryError::ShortPrefix),
            ("OR a", QueryError::Or),
            ("a OR", QueryError::Or),
            ("a OR OR b", QueryError::Or),
            ("a OR -b", QueryError::Or),
        ] {
            assert_eq!(shown(text), Err(error), "{text}");
        }
        assert_eq!(shown(&"w ".repeat(33)), Err(QueryError::TooManyWords));
        assert_eq!(shown(&"w".repeat(1025)), Err(QueryError::TooLong(1025)));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in any::<String>(), signs in "[a-z\"*\\- OR“”本]{0,60}") {
            for text in [text, signs] {
                if let Ok(query) = Query::parse(&text, &analyser(), None) {
                    prop_assert!(query.wanted().count() > 0);
                    for clause in &query.clauses {
                        prop_assert!(!clause.any.is_empty());
                        prop_assert!(!clause.negated || clause.any.len() == 1);
                        prop_assert!(clause.any.iter().all(|item| !item.words.is_empty()));
                    }
                }
            }
        }
    }
}
