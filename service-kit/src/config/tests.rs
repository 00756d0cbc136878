use std::net::SocketAddr;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn document(text: &str) -> Document {
    Document::parse(text, []).unwrap()
}

fn with_environment(text: &str, variables: &[(&str, &str)]) -> Document {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Document::parse(text, variables).unwrap()
}

fn faults(document: Document) -> Vec<String> {
    let faults = document.finish().expect_err("there are faults");
    faults.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn a_variable_with_too_few_underscores_is_told_and_those_of_others_are_not_ours() {
    let variables = [
        ("SWITCHBOARD_CLOCK_LIMIT", "8"),
        ("SWITCHBOARD_CLOCK_SERVICE_HOST", "10.0.0.1"),
    ];
    let mut document = with_environment("", &variables);
    document.section("clock").integer("limit", 7, 1..=9, "");
    assert_eq!(
        faults(document),
        [
            "SWITCHBOARD_CLOCK_LIMIT: has one underscore where two are needed; name it SWITCHBOARD__CLOCK__LIMIT"
        ]
    );
}

#[test]
fn defaults_file_and_environment_in_this_order() {
    let text = "[clock]\ntick = \"2s\"\nlimit = 7\n";
    let mut document = with_environment(text, &[("SWITCHBOARD__CLOCK__LIMIT", "8"), ("HOME", "/root")]);
    let mut clock = document.section("clock");
    assert_eq!(clock.text("name", "wall", "Name."), "wall");
    assert_eq!(
        clock.duration("tick", SECOND, SECOND..=60 * SECOND, "Tick."),
        2 * SECOND
    );
    assert_eq!(clock.integer("limit", 1, 0..=10, "Limit."), 8);
    let effective = document.finish().unwrap();
    let sources: Vec<String> = effective
        .entries()
        .map(|entry| entry.source.to_string())
        .collect();
    assert_eq!(
        sources,
        [
            "default",
            "configuration line 2",
            "environment SWITCHBOARD__CLOCK__LIMIT"
        ]
    );
}

#[test]
fn every_type_from_the_file_and_from_the_environment() {
    let text = "
        [all.of]
        text = 'a'
        boolean = true
        integer = 5
        duration = '250ms'
        bytes = 4096
        more_bytes = '64KiB'
        address = '[::1]:0'
        path = './here'
        list = ['a', 'b']
        choice = 'two'
        secret = 'hush'
    ";
    let variables = [
        ("SWITCHBOARD__ALL__OF__TEXT", "a"),
        ("SWITCHBOARD__ALL__OF__BOOLEAN", "true"),
        ("SWITCHBOARD__ALL__OF__INTEGER", "5"),
        ("SWITCHBOARD__ALL__OF__DURATION", "250ms"),
        ("SWITCHBOARD__ALL__OF__BYTES", "4096"),
        ("SWITCHBOARD__ALL__OF__MORE_BYTES", "64KiB"),
        ("SWITCHBOARD__ALL__OF__ADDRESS", "[::1]:0"),
        ("SWITCHBOARD__ALL__OF__PATH", "./here"),
        ("SWITCHBOARD__ALL__OF__LIST", "a, b"),
        ("SWITCHBOARD__ALL__OF__CHOICE", "two"),
        ("SWITCHBOARD__ALL__OF__SECRET", "hush"),
    ];
    for mut document in [document(text), with_environment("", &variables)] {
        let mut all = document.section("all.of");
        assert_eq!(all.text("text", "", "."), "a");
        assert!(all.boolean("boolean", false, "."));
        assert_eq!(all.integer("integer", 0, 0..=9, "."), 5);
        assert_eq!(
            all.duration("duration", SECOND, Duration::ZERO..=SECOND, "."),
            SECOND / 4
        );
        assert_eq!(all.bytes("bytes", 0, 0..=1 << 20, "."), 4096);
        assert_eq!(all.bytes("more_bytes", 0, 0..=1 << 20, "."), 65_536);
        let address: SocketAddr = "[::1]:0".parse().unwrap();
        assert_eq!(
            all.address("address", "127.0.0.1:1".parse().unwrap(), "."),
            address
        );
        assert_eq!(all.path("path", "", "."), Path::new("./here"));
        assert_eq!(all.list("list", &[], "."), ["a", "b"]);
        assert_eq!(all.choice("choice", &[("one", 1), ("two", 2)], "one", "."), 2);
        assert_eq!(all.secret("secret", ".").unwrap().expose_secret(), "hush");
        document.finish().unwrap();
    }
}

#[test]
fn all_faults_at_once_each_with_problem_remedy_and_place() {
    let text = "[clock]\ntick = '0s'\nlimit = 'many'\nname = 3\n\n[colour]\nred = 1\n";
    let mut document = with_environment(text, &[("SWITCHBOARD__CLOCK__LITIM", "8")]);
    let mut clock = document.section("clock");
    assert_eq!(
        clock.duration("tick", 5 * SECOND, SECOND..=60 * SECOND, "."),
        5 * SECOND
    );
    assert_eq!(clock.integer("limit", 1, 0..=10, "."), 1);
    assert_eq!(clock.text("name", "wall", "."), "wall");
    clock.fault("limit", "1 is less than the hours of a day", "set at least 24");
    assert_eq!(
        faults(document),
        [
            "clock.tick: 0s is out of range (1s to 1m); set a value within it, or remove the key for the \
             default \"5s\" (configuration line 2)",
            "clock.limit: expected a whole number, found \"many\"; write digits only, without quotes, or remove \
             the key for the default 1 (configuration line 3)",
            "clock.name: expected text, found integer; put quotes around it, or remove the key for the default \
             \"wall\" (configuration line 4)",
            "clock.limit: 1 is less than the hours of a day; set at least 24 (configuration line 3)",
            "colour: unknown section; remove it (configuration line 6)",
            "SWITCHBOARD__CLOCK__LITIM: no key has this environment variable; did you mean \
             SWITCHBOARD__CLOCK__LIMIT?",
        ]
    );
}

#[test]
fn values_of_another_type_are_refused() {
    type Read = fn(&mut Section<'_>);
    let boolean: Read = |s| assert!(!s.boolean("key", false, "."));
    let integer: Read = |s| assert_eq!(s.integer("key", 1, 1..=9, "."), 1);
    let duration: Read = |s| assert_eq!(s.duration("key", SECOND, SECOND..=2 * SECOND, "."), SECOND);
    let bytes: Read = |s| assert_eq!(s.bytes("key", 1, 1..=9, "."), 1);
    let address: Read = |s| assert_eq!(s.address("key", "[::]:1".parse().unwrap(), ".").port(), 1);
    let list: Read = |s| assert_eq!(s.list("key", &["a"], "."), ["a"]);
    let choice: Read = |s| assert_eq!(s.choice("key", &[("one", 1), ("two", 2)], "one", "."), 1);
    let path: Read = |s| assert_eq!(s.path("key", "a", "."), Path::new("a"));
    for (read, wrong) in [
        (boolean, vec!["'true'", "1"]),
        (integer, vec!["'5'", "0", "10", "-1", "5.0", "true"]),
        (duration, vec!["1", "'1'", "'3s'", "'-1s'", "'1 year'"]),
        (bytes, vec!["0", "-5", "'10'", "'1KB'", "[]"]),
        (address, vec!["'localhost:80'", "':80'", "'127.0.0.1'", "80"]),
        (list, vec!["'a'", "[1]", "{}"]),
        (choice, vec!["'three'", "1", "''"]),
        (path, vec!["''", "1"]),
    ] {
        for value in wrong {
            let mut document = document(&format!("[s]\nkey = {value}"));
            read(&mut document.section("s"));
            let found = faults(document);
            assert!(
                found.len() == 1 && found[0].starts_with("s.key: "),
                "{value}: {found:?}"
            );
        }
    }
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    let mut document = document("top = 1\n[clock]\ntcik = 1\n[clok]\nname = 'x'\n[other]\ntick = 1\n");
    document.section("clock").integer("tick", 1, 0..=9, ".");
    document.section("other").text("name", "", ".");
    let found = faults(document);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(
        found.contains(&"top: unknown key; remove it (configuration line 1)".to_owned()),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("clock.tcik: unknown key; did you mean `clock.tick`?"))
    );
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("clok: unknown section; did you mean `clock`?"))
    );
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("other.tick: unknown key; did you mean `clock.tick`?"))
    );
}

#[test]
fn a_section_nobody_reads_is_unknown_and_an_ignored_one_is_not() {
    let text = "[mine]\nkey = 'a'\n[theirs]\nkey = 1\n[theirs.below]\nkey = 1\n";
    let variables = [("SWITCHBOARD__THEIRS__BELOW__KEY", "x")];
    let read = |ignore: bool| {
        let mut document = with_environment(text, &variables);
        document.section("mine").text("key", "", ".");
        if ignore {
            document.ignore("theirs");
        }
        document
    };
    assert_eq!(faults(read(false)).len(), 2);
    read(true).finish().unwrap();
}

#[test]
fn a_section_that_is_a_value_is_a_fault() {
    let mut document = document("clock = 5\n[outer]\ninner = true\n");
    assert_eq!(document.section("clock").integer("tick", 1, 0..=9, "."), 1);
    document.section("clock").integer("tick", 1, 0..=9, ".");
    document.section("outer.inner").integer("tick", 1, 0..=9, ".");
    assert_eq!(
        faults(document),
        [
            "clock: is a section, found integer; write its keys under [clock] (configuration line 1)",
            "outer.inner: is a section, found boolean; write its keys under [outer.inner] (configuration line 3)",
        ]
    );
}

#[test]
fn a_key_that_is_a_section_is_a_fault() {
    let mut document = document("[clock.tick]\nlong = 1\n");
    document.section("clock").integer("tick", 1, 0..=9, ".");
    let found = faults(document);
    assert!(
        found.len() == 1 && found[0].starts_with("clock.tick: expected a whole number"),
        "{found:?}"
    );
}

#[test]
fn syntax_errors_have_a_place_and_quote_nothing() {
    let text = "[clock]\ntick = \"1s\npassword = 'hush\n[clock]\n";
    let faults = Document::parse(text, []).unwrap_err();
    let lines = faults.to_string();
    assert!(
        lines.starts_with("configuration: not valid TOML at line 2, column 11: "),
        "{lines}"
    );
    assert!(lines.contains("line 3, column 17"), "{lines}");
    assert!(!lines.contains("hush"), "{lines}");
}

#[test]
fn a_file_that_is_missing_is_named() {
    let faults = Document::load(Some(Path::new("no/such.toml")), [])
        .unwrap_err()
        .to_string();
    assert!(
        faults.starts_with("no/such.toml: the configuration file cannot be read: "),
        "{faults}"
    );
}

#[test]
fn secrets_come_from_files_too_and_are_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "from a file\n").unwrap();
    let text = format!("[s]\none = 'hush'\ntwo_file = '{}'\nthree = 5\n", file.display());
    let mut document = document(&text);
    let mut section = document.section("s");
    assert_eq!(section.secret("one", "One.").unwrap().expose_secret(), "hush");
    assert_eq!(
        section.secret("two", "Two.").unwrap().expose_secret(),
        "from a file"
    );
    section.integer("three", 1, 0..=9, ".");
    let printed = document.finish().unwrap().to_string();
    assert!(printed.contains("one = \"<hidden>\""), "{printed}");
    assert!(printed.contains("two_file = "), "{printed}");
    assert!(
        !printed.contains("hush") && !printed.contains("from a file"),
        "{printed}"
    );
}

#[test]
fn secrets_that_cannot_be_meant_are_faults() {
    let folder = tempfile::tempdir().unwrap();
    let (file, empty) = (folder.path().join("secret"), folder.path().join("empty"));
    std::fs::write(&file, "hush").unwrap();
    std::fs::write(&empty, "\n").unwrap();
    for (text, expected) in [
        ("key = ''".to_owned(), "s.key: is empty; "),
        (
            "key = '<hidden>'".to_owned(),
            "s.key: is the placeholder <hidden> of a printed configuration; ",
        ),
        ("key = 123456".to_owned(), "s.key: expected text, found integer; "),
        (
            format!("key = 'a'\nkey_file = '{}'", file.display()),
            "s.key: given, and `key_file` too; ",
        ),
        (
            "key_file = 'no/such'".to_owned(),
            "s.key_file: cannot read no/such: ",
        ),
        (format!("key_file = '{}'", empty.display()), "s.key_file: "),
    ] {
        let mut document = document(&format!("[s]\n{text}\n"));
        assert!(document.section("s").secret("key", ".").is_none(), "{text}");
        let found = faults(document);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{text}: {found:?}"
        );
        assert!(!found[0].contains("123456"), "{found:?}");
    }
}

fn read_clock(document: &mut Document) -> (Option<String>, Vec<String>, u64, Duration) {
    let mut clock = document.section("clock");
    let name = clock.optional_text("name", "What it is called.");
    let hands = clock.list("hands", &["hour", "minute \"long\""], "Which hands.");
    document
        .section("clock.spring")
        .bytes("size", 1024, 1..=1 << 20, "How large.");
    let mut clock = document.section("clock");
    let size = clock.bytes("size", 1024, 1..=1 << 20, "How large.");
    (
        name,
        hands,
        size,
        clock.duration("tick", SECOND, SECOND..=SECOND * 60, "How fast."),
    )
}

#[test]
fn what_is_printed_reads_back() {
    let mut first = with_environment("[clock]\nsize = 2048\n", &[("SWITCHBOARD__CLOCK__TICK", "30s")]);
    let values = read_clock(&mut first);
    let printed = first.finish().unwrap().to_string();
    assert_eq!(
        printed,
        "[clock]\n\
         # What it is called. (text)\n\
         # Default.\n\
         # name is not set; SWITCHBOARD__CLOCK__NAME\n\
         # Which hands. (list of texts)\n\
         # Default.\n\
         hands = [\"hour\", 'minute \"long\"']\n\
         # How large. (bytes, 1B to 1MiB)\n\
         # Default \"1KiB\"; set by configuration line 2.\n\
         size = \"2KiB\"\n\
         # How fast. (duration, 1s to 1m)\n\
         # Default \"1s\"; set by environment SWITCHBOARD__CLOCK__TICK.\n\
         tick = \"30s\"\n\
         \n\
         [clock.spring]\n\
         # How large. (bytes, 1B to 1MiB)\n\
         # Default.\n\
         size = \"1KiB\"\n"
    );
    let mut second = document(&printed);
    assert_eq!(read_clock(&mut second), values);
    second.finish().unwrap();
}

#[test]
fn the_reference_lists_every_key() {
    let mut document = document("");
    read_clock(&mut document);
    document
        .section("clock")
        .choice("kind", &[("a|b", 1)], "a|b", "Which kind.");
    let page = document.finish().unwrap().reference();
    assert_eq!(page.matches("## `[clock]`").count(), 1, "{page}");
    assert!(
        page.contains("| `size` | bytes, 1B to 1MiB | `\"1KiB\"` | How large. |"),
        "{page}"
    );
    assert!(
        page.contains("| `name` | text | none | What it is called. |"),
        "{page}"
    );
    assert!(page.contains("| `kind` | one of \"a\\|b\" |"), "{page}");
}

/// Sections whose names the operator makes up.
#[test]
fn named_sections_are_found_and_read_like_others() {
    let text = "[rooms.big]\nseats = 90\n[rooms.small]\n[rooms.\"a.b\"]\nseats = 1\n[rooms]\nseats = 2";
    let mut document = with_environment(text, &[("SWITCHBOARD__ROOMS__SMALL__SEATS", "4")]);
    let names = document.names("rooms");
    assert_eq!(names, ["big", "small"]);
    let seats: Vec<u64> = names
        .iter()
        .map(|name| {
            document
                .section(&format!("rooms.{name}"))
                .integer("seats", 1, 1..=100, "Seats.")
        })
        .collect();
    assert_eq!(seats, [90, 4]);
    let faults = faults(document).join("\n");
    assert!(
        faults.contains("rooms.a.b") && faults.contains("give it another name"),
        "{faults}"
    );
    assert!(
        faults.contains("rooms.seats") && faults.contains("unknown key"),
        "{faults}"
    );

    let mut document = with_environment("rooms = 3", &[("SWITCHBOARD__ROOMS__NEW__SEATS", "4")]);
    assert!(document.names("rooms").is_empty());
    let faults = self::faults(document).join("\n");
    assert!(
        faults.contains("is a section") && faults.contains("SWITCHBOARD__ROOMS__NEW__SEATS"),
        "{faults}"
    );

    let mut document = self::document("[rooms.big]\nseat = 90");
    for name in document.names("rooms") {
        document
            .section(&format!("rooms.{name}"))
            .integer("seats", 1, 1..=100, "Seats.");
    }
    let faults = self::faults(document).join("\n");
    assert!(
        faults.contains("rooms.big.seat") && faults.contains("did you mean `rooms.big.seats`?"),
        "{faults}"
    );
}
