//! From text to what is looked for: words, and for each word the forms under which it is found.
//!
//! Both stores are fed with these forms and asked for them, and take none of their own: neither PostgreSQL's
//! dictionaries nor SQLite's tokenizer decide anything. So both find the same messages.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use rust_stemmers::Stemmer;
use switchboard_proto::bus::Message;
use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::UnicodeEmoji as _;
use unicode_segmentation::UnicodeSegmentation as _;

use super::language::{Language, fold};
use super::text::Fields;

/// Words of one message, at most; what is beyond cannot be found.
pub const WORDS: usize = 1000;

/// Letters of a word; of a longer one these are its beginning, and stand for it.
pub const LETTERS: usize = 64;

/// How often one form is found in a message, at most: no `tsvector` holds more.
const OCCURRENCES: u8 = 255;

/// Words whose forms are kept, as most words of most messages are the same few.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// Bytes of a word that is kept, at most.
const KEPT_BYTES: usize = 32;

/// Changes with whatever makes other forms of the same text. An index of another one is made anew.
pub const VERSION: u32 = 1;

/// Makes forms of text.
pub struct Analyser {
    languages: Vec<(Language, Stemmer)>,
    own_letters: String,
    fields: Fields,
    kept: Mutex<LruCache<String, Arc<[String]>>>,
}

/// A text's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Analysed {
    /// The texts that the words stand in.
    pub texts: Vec<String>,
    /// In their order.
    pub words: Vec<Word>,
}

/// One word where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Counts words from 1 on; between two texts one is left out, so that no phrase goes over the edge.
    pub position: u16,
    /// Which text.
    pub text: usize,
    /// Its bytes there.
    pub bytes: std::ops::Range<usize>,
    /// The word itself without accents, and its stems. Few.
    pub forms: Arc<[String]>,
}

impl Analyser {
    /// An analyser for texts in any of these languages, which stand in these fields.
    pub fn new(languages: &[Language], fields: Fields) -> Self {
        let mut own_letters = String::new();
        for letter in languages
            .iter()
            .flat_map(|language| language.own_letters().chars())
        {
            if !own_letters.contains(letter) {
                own_letters.push(letter);
            }
        }
        Self {
            languages: languages
                .iter()
                .map(|language| (*language, Stemmer::create(language.algorithm())))
                .collect(),
            own_letters,
            fields,
            kept: Mutex::new(LruCache::new(KEPT)),
        }
    }

    /// Whether words are reduced to stems of this language.
    pub fn has(&self, language: Language) -> bool {
        self.languages.iter().any(|(own, _)| *own == language)
    }

    /// What can be searched of a message.
    pub fn message(&self, message: &Message) -> Analysed {
        self.texts(self.fields.texts(message))
    }

    /// What can be searched of texts.
    pub fn texts(&self, texts: Vec<String>) -> Analysed {
        let mut words: Vec<Word> = Vec::new();
        let mut position: u16 = 0;
        for (number, text) in texts.iter().enumerate() {
            for (start, word) in pieces(text) {
                if words.len() == WORDS {
                    break;
                }
                let forms = self.kept(word);
                if forms.is_empty() {
                    continue;
                }
                position += 1;
                words.push(Word {
                    position,
                    text: number,
                    bytes: start..start + word.len(),
                    forms,
                });
            }
            position += 1;
        }
        bound_occurrences(&mut words);
        Analysed { texts, words }
    }

    /// The words of a question, each with the forms any of which it may be found under. With a language, only that one's stems.
    pub(super) fn question(&self, text: &str, language: Option<Language>) -> Vec<Vec<String>> {
        pieces(text)
            .map(|(_, word)| self.forms(word, language))
            .filter(|forms| !forms.is_empty())
            .collect()
    }

    fn kept(&self, word: &str) -> Arc<[String]> {
        if word.len() > KEPT_BYTES {
            return self.forms(word, None).into();
        }
        if let Some(forms) = self.kept.lock().get(word) {
            return Arc::clone(forms);
        }
        let forms: Arc<[String]> = self.forms(word, None).into();
        self.kept.lock().put(word.to_owned(), Arc::clone(&forms));
        forms
    }

    /// The word itself comes first.
    fn forms(&self, word: &str, only: Option<Language>) -> Vec<String> {
        let lower = if word.is_ascii() {
            word.to_ascii_lowercase()
        } else {
            let lower = word.nfkc().collect::<String>().to_lowercase();
            // As stemmers expect it.
            lower.replace('’', "'").replace('ß', "ss").replace('ё', "е")
        };
        let lower = match lower.char_indices().nth(LETTERS) {
            Some((end, _)) => lower.get(..end).unwrap_or_default(),
            None => &lower,
        };
        let plain = fold(lower, &self.own_letters);
        if plain.is_empty() {
            return Vec::new();
        }
        let mut forms = vec![plain];
        if lower.chars().all(|letter| !letter.is_alphabetic()) {
            return forms;
        }
        for (language, stemmer) in &self.languages {
            if only.is_some_and(|only| only != *language) {
                continue;
            }
            let stem = stemmer.stem(lower);
            if forms.iter().any(|form| *form == stem) {
                continue;
            }
            let stem = fold(&stem, &self.own_letters);
            if !stem.is_empty() && !forms.contains(&stem) {
                forms.push(stem);
            }
        }
        forms
    }
}

impl std::fmt::Debug for Analyser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self
            .languages
            .iter()
            .map(|(language, _)| language.name())
            .collect();
        f.debug_struct("Analyser")
            .field("languages", &names)
            .finish_non_exhaustive()
    }
}

impl Analysed {
    /// Where each form stands.
    pub fn forms(&self) -> BTreeMap<&str, Vec<u16>> {
        let mut forms: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for word in &self.words {
            for form in word.forms.iter() {
                forms.entry(form).or_default().push(word.position);
            }
        }
        forms
    }
}

/// The words of a text as its reader sees them, with the byte that each begins at. Signs between words are left out; emoji are words.
fn pieces(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_word_bound_indices()
        .filter(|(_, piece)| {
            piece
                .chars()
                .any(|letter| letter.is_alphanumeric() || is_emoji(letter))
        })
        .flat_map(|(start, piece)| parts(piece).map(move |(at, part)| (start + at, part)))
}

fn is_emoji(letter: char) -> bool {
    !letter.is_ascii() && letter.is_emoji_char()
}

/// A word of Unicode's may be several to a reader: `example.com`, `snake_case`, `l'homme`. Numbers stay: `3.14`.
fn parts(piece: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = Some((0, piece));
    std::iter::from_fn(move || {
        let (start, text) = rest?;
        let mut before: Option<char> = None;
        let mut letters = 0_usize;
        let mut letters_of_text = text.char_indices().peekable();
        while let Some((at, letter)) = letters_of_text.next() {
            let after = letters_of_text.peek().map(|(_, letter)| *letter);
            let is_number = before.is_some_and(char::is_numeric) && after.is_some_and(char::is_numeric);
            let ends = match letter {
                '_' | ':' => true,
                '.' => !is_number,
                '\'' | '’' => letters > 0 && letters <= 2,
                _ => false,
            };
            if ends && let Some((part, behind)) = text.split_at_checked(at) {
                let next = start + at + letter.len_utf8();
                rest = behind.get(letter.len_utf8()..).map(|behind| (next, behind));
                return Some((start, part));
            }
            letters += 1;
            before = Some(letter);
        }
        rest = None;
        Some((start, text))
    })
    .filter(|(_, part)| {
        part.chars()
            .any(|letter| letter.is_alphanumeric() || is_emoji(letter))
    })
}

/// Leaves out forms that stand in the text too often.
fn bound_occurrences(words: &mut [Word]) {
    if words.len() <= usize::from(OCCURRENCES) {
        return;
    }
    let mut seen: HashMap<String, u8> = HashMap::new();
    for word in words {
        let mut is_within = |form: &String| match seen.get_mut(form) {
            Some(count) => {
                let is_within = *count < OCCURRENCES;
                *count = count.saturating_add(1);
                is_within
            }
            None => {
                seen.insert(form.clone(), 1);
                true
            }
        };
        let within: Vec<bool> = word.forms.iter().map(&mut is_within).collect();
        if within.contains(&false) {
            let forms = word.forms.iter().zip(within);
            word.forms = forms
                .filter(|(_, is_within)| *is_within)
                .map(|(form, _)| form.clone())
                .collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::language::LANGUAGES;
    use super::*;

    fn analyser(languages: &[Language]) -> Analyser {
        Analyser::new(languages, Fields::default())
    }

    fn forms(text: &str) -> Vec<String> {
        let analysed = analyser(&[Language::English]).texts(vec![text.to_owned()]);
        analysed.words.iter().map(|word| word.forms.join("/")).collect()
    }

    #[test]
    fn words_are_what_a_reader_sees() {
        assert_eq!(
            forms("Running dogs, 3.14 of example.com!"),
            ["running/run", "dogs/dog", "3·14", "of", "example/exampl", "com"]
        );
        assert_eq!(
            forms("l'Homme don't snake_case"),
            ["l", "homme/homm", "don·t", "snake", "case"]
        );
        assert_eq!(forms("日本語テスト"), ["日", "本", "語", "テスト"]);
        assert_eq!(
            forms("Café ﬁn STRASSE straße"),
            ["cafe", "fin", "strasse/strass", "strasse/strass"]
        );
        assert_eq!(forms("ok 👍🏽 ❤️ … —"), ["ok", "👍🏽", "❤"]);
    }

    #[test]
    fn every_language_of_the_configuration_gives_its_stem() {
        let analysed = analyser(&[Language::English, Language::German]).texts(vec!["Häuser".to_owned()]);
        assert_eq!(*analysed.words[0].forms, ["hauser", "haus"]);
        let both = analyser(&[Language::English, Language::German]);
        assert_eq!(
            both.question("houses", Some(Language::German)),
            [["houses", "hous"]]
        );
    }

    #[test]
    fn places_are_those_in_the_text() {
        let texts = vec!["Ünder_the sea".to_owned(), "two".to_owned()];
        let analysed = analyser(&[]).texts(texts);
        let found: Vec<(u16, &str)> = analysed
            .words
            .iter()
            .map(|word| (word.position, &analysed.texts[word.text][word.bytes.clone()]))
            .collect();
        assert_eq!(found, [(1, "Ünder"), (2, "the"), (3, "sea"), (5, "two")]);
    }

    #[test]
    fn words_are_bounded() {
        let analysed = analyser(&[]).texts(vec!["x ".repeat(WORDS + 7)]);
        assert_eq!(analysed.words.len(), WORDS);
        assert_eq!(analysed.forms()["x"].len(), usize::from(OCCURRENCES));
        let long = analyser(&[]).question(&"y".repeat(LETTERS * 2), None);
        assert_eq!(long, [["y".repeat(LETTERS)]]);
    }

    proptest! {
        #[test]
        fn any_text_has_forms_that_databases_take(text in any::<String>(), ascii in "[ -~]{0,80}", greek in "[α-ωά-ώа-яёا-يă-ź' .]{0,60}") {
            let all: Vec<Language> = LANGUAGES.iter().map(|(_, language)| *language).collect();
            let analyser = analyser(&all);
            let analysed = analyser.texts(vec![text, ascii, greek]);
            for word in &analysed.words {
                prop_assert!(analysed.texts[word.text].get(word.bytes.clone()).is_some());
                for form in word.forms.iter() {
                    prop_assert!(!form.is_empty() && form.len() < 1024);
                    prop_assert!(form.chars().all(|letter| !letter.is_ascii() || letter.is_ascii_alphanumeric()), "{form}");
                }
            }
        }
    }
}
