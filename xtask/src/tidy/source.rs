//! What the rules know of a Rust file: its code without comments and strings, its strings, and where its tests are.

use std::ops::Range;

/// A string literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Literal {
    /// Where it begins in the text, in bytes.
    pub(super) offset: usize,
    /// What stands between the quotes; escapes of line ends are resolved, others are as written.
    pub(super) value: String,
}

/// A Rust file, taken apart.
pub(super) struct Source {
    /// The text with comments and the contents of strings replaced by spaces: offsets and lines are those of the file.
    pub(super) code: String,
    pub(super) literals: Vec<Literal>,
    test_regions: Vec<Range<usize>>,
    attributes: Vec<Range<usize>>,
    line_starts: Vec<usize>,
}

impl Source {
    pub(super) fn scan(text: &str) -> Self {
        let mut scanner = Scanner {
            bytes: text.as_bytes(),
            text,
            code: text.as_bytes().to_vec(),
            literals: Vec::new(),
        };
        scanner.scan();
        // Whole characters are replaced, so what is left is text.
        let code = String::from_utf8_lossy(&scanner.code).into_owned();
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(offset, _)| offset + 1))
            .collect();
        Self {
            test_regions: test_regions(&code),
            attributes: attributes(&code),
            literals: scanner.literals,
            line_starts,
            code,
        }
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Whether the offset lies in an item that only tests have.
    pub(super) fn is_test(&self, offset: usize) -> bool {
        self.test_regions
            .iter()
            .any(|region| region.contains(&offset))
    }

    /// Whether the offset lies in an attribute.
    pub(super) fn is_attribute(&self, offset: usize) -> bool {
        self.attributes
            .iter()
            .any(|region| region.contains(&offset))
    }

    /// Identifiers and single other characters of the code, with their offsets.
    pub(super) fn tokens(&self) -> Vec<(usize, &str)> {
        tokens(&self.code)
    }
}

fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    let mut rest = code.char_indices().peekable();
    while let Some((start, first)) = rest.next() {
        if first.is_whitespace() {
            continue;
        }
        let mut end = start + first.len_utf8();
        if is_word(first) {
            while let Some((offset, next)) = rest.next_if(|(_, next)| is_word(*next)) {
                end = offset + next.len_utf8();
            }
        }
        tokens.push((start, &code[start..end]));
    }
    tokens
}

/// Whether the character may be part of an identifier.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Scanner<'a> {
    bytes: &'a [u8],
    text: &'a str,
    code: Vec<u8>,
    literals: Vec<Literal>,
}

impl Scanner<'_> {
    fn scan(&mut self) {
        let mut at = 0;
        while at < self.bytes.len() {
            at = match self.bytes[at] {
                b'/' if self.peek(at + 1) == Some(b'/') => self.line_comment(at),
                b'/' if self.peek(at + 1) == Some(b'*') => self.block_comment(at),
                b'r' if self.begins_word(at) => self.raw_string(at).unwrap_or(at + 1),
                b'"' => self.string(at),
                b'\'' => self.character(at),
                _ => at + 1,
            };
        }
    }

    fn peek(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// Whether a raw string may begin here: not inside an identifier, but after `b` or `c` alone.
    fn begins_word(&self, at: usize) -> bool {
        let is_word = |at: usize| self.bytes[at].is_ascii_alphanumeric() || self.bytes[at] == b'_';
        if at == 0 || !is_word(at - 1) {
            return true;
        }
        matches!(self.bytes[at - 1], b'b' | b'c') && (at == 1 || !is_word(at - 2))
    }

    fn blank(&mut self, range: Range<usize>) {
        for byte in &mut self.code[range] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }

    fn line_comment(&mut self, start: usize) -> usize {
        let end = self.text[start..]
            .find('\n')
            .map_or(self.bytes.len(), |length| start + length);
        self.blank(start..end);
        end
    }

    fn block_comment(&mut self, start: usize) -> usize {
        let mut depth = 0;
        let mut at = start;
        while at < self.bytes.len() {
            match (self.bytes[at], self.peek(at + 1)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    at += 2;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                }
                _ => at += 1,
            }
        }
        self.blank(start..at);
        at
    }

    fn raw_string(&mut self, start: usize) -> Option<usize> {
        let mut at = start + 1;
        while self.peek(at) == Some(b'#') {
            at += 1;
        }
        let hashes = at - start - 1;
        if self.peek(at) != Some(b'"') {
            return None;
        }
        let content = at + 1;
        let closing = format!("\"{}", "#".repeat(hashes));
        let end = self.text[content..]
            .find(&closing)
            .map_or(self.bytes.len(), |length| content + length);
        self.literals.push(Literal {
            offset: start,
            value: self.text[content..end].to_owned(),
        });
        self.blank(content..end);
        Some((end + closing.len()).min(self.bytes.len()))
    }

    fn string(&mut self, start: usize) -> usize {
        let content = start + 1;
        let mut at = content;
        while let Some(byte) = self.peek(at) {
            match byte {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        let end = at.min(self.bytes.len());
        self.literals.push(Literal {
            offset: start,
            value: resolve_line_ends(&self.text[content..end]),
        });
        self.blank(content..end);
        (end + 1).min(self.bytes.len())
    }

    /// A character literal, or the quote of a lifetime.
    fn character(&mut self, start: usize) -> usize {
        let Some(first) = self.text[start + 1..].chars().next() else {
            return start + 1;
        };
        let end = if first == '\\' {
            // After the escaped character, which may itself be a quote.
            let after = (start + 3).min(self.bytes.len());
            self.bytes[after..]
                .iter()
                .position(|byte| *byte == b'\'')
                .map(|length| after + length)
        } else {
            let after = start + 1 + first.len_utf8();
            (self.peek(after) == Some(b'\'')).then_some(after)
        };
        let Some(end) = end else { return start + 1 };
        self.blank(start + 1..end);
        end + 1
    }
}

fn resolve_line_ends(raw: &str) -> String {
    let mut value = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        value.push_str(&rest[..at]);
        let escape = &rest[at..];
        if let Some(continued) = escape.strip_prefix("\\\n") {
            rest = continued.trim_start();
        } else if let Some(after) = escape.strip_prefix("\\n") {
            value.push('\n');
            rest = after;
        } else {
            let length = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
            value.push_str(&escape[..length]);
            rest = &escape[length..];
        }
    }
    value.push_str(rest);
    value
}

/// `#[…]` and `#![…]`.
fn attributes(code: &str) -> Vec<Range<usize>> {
    let mut regions = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    let mut before = "";
    let mut before_that = "";
    for (offset, token) in tokens(code) {
        let opens = before == "#" || (before == "!" && before_that == "#");
        match token {
            "[" if depth > 0 => depth += 1,
            "[" if opens => {
                depth = 1;
                start = offset;
            }
            "]" if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    regions.push(start..offset);
                }
            }
            _ => {}
        }
        before_that = before;
        before = token;
    }
    regions
}

/// The items that follow a `#[cfg(test)]` or `#[cfg(any(test, …))]`.
fn test_regions(code: &str) -> Vec<Range<usize>> {
    let tokens = tokens(code);
    let mut regions = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let Some(end) = test_attribute(&tokens[at..]) else {
            at += 1;
            continue;
        };
        let start = tokens[at].0;
        let mut depth = 0_usize;
        let mut last = at + end;
        while let Some((_, token)) = tokens.get(last) {
            match *token {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && matches!(*token, ";" | "}") {
                break;
            }
            last += 1;
        }
        let end = tokens
            .get(last)
            .map_or(code.len(), |(offset, _)| offset + 1);
        regions.push(start..end);
        at = last + 1;
    }
    regions
}

/// The number of tokens of the attribute that begins here, if it confines its item to tests.
fn test_attribute(tokens: &[(usize, &str)]) -> Option<usize> {
    let begins = ["#", "[", "cfg", "("];
    if tokens.len() < begins.len()
        || !tokens
            .iter()
            .zip(begins)
            .all(|((_, token), begin)| *token == begin)
    {
        return None;
    }
    let length = 1 + tokens.iter().position(|(_, token)| *token == "]")?;
    let words: Vec<&str> = tokens[..length].iter().map(|(_, token)| *token).collect();
    (words.contains(&"test") && !words.contains(&"not")).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        let literals = Source::scan(text).literals;
        literals.into_iter().map(|literal| literal.value).collect()
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let text = "let a = \"mod x;\"; // mod y;\n/* mod /* z */; */ let b = 'm';\n";
        let source = Source::scan(text);
        assert_eq!(
            source.code,
            "let a = \"      \";          \n                   let b = ' ';\n"
        );
        assert_eq!(source.code.len(), text.len());
    }

    #[test]
    fn all_forms_of_strings_are_read() {
        assert_eq!(values(r#"f("a\"b", b"c")"#), ["a\\\"b", "c"]);
        assert_eq!(
            values("r#\"a \"quoted\" b\"# + br\"c\" + cr##\"d\"#\"##"),
            ["a \"quoted\" b", "c", "d\"#"]
        );
        assert_eq!(values("let r#type = bar\"x\";"), ["x"]);
        assert_eq!(
            values("\"one \\\n     line\\nand another\""),
            ["one line\nand another"]
        );
    }

    #[test]
    fn a_quote_character_opens_no_string_and_a_lifetime_no_character() {
        assert_eq!(values("('\"', '\\'', '\\\\', \"a\")"), ["a"]);
        assert_eq!(values("fn f<'a>(x: &'a str) -> &'a str { \"b\" }"), ["b"]);
        assert_eq!(values("['ä', '\"']; \"c\""), ["c"]);
        assert_eq!(values("'\\u{1F600}' \"d\""), ["d"]);
    }

    #[test]
    fn an_unfinished_file_does_not_stop_the_scanner() {
        for text in ["\"open", "r#\"open", "/* open", "'", "'\\", "b'", "// end"] {
            assert_eq!(Source::scan(text).code.len(), text.len(), "{text}");
        }
    }

    #[test]
    fn lines_are_counted_from_one() {
        let source = Source::scan("a\nb\n");
        assert_eq!([source.line(0), source.line(1), source.line(2)], [1, 1, 2]);
    }

    #[test]
    fn attributes_are_known_with_what_is_nested_in_them() {
        let text = "#![a]\n#[b(c = [1], d)]\nlet e = [f]; g![h]\n";
        let source = Source::scan(text);
        let inside: Vec<char> = "abcdefgh"
            .chars()
            .filter(|c| text.rfind(*c).is_some_and(|at| source.is_attribute(at)))
            .collect();
        assert_eq!(inside, ['a', 'b', 'c', 'd']);
    }

    #[test]
    fn items_that_only_tests_have_are_known() {
        let text = "fn a() {}\n#[cfg(test)]\n#[rustfmt::skip]\nmod tests { fn b() { [1]; } }\nfn c() {}\n\
                    #[cfg(any(test, feature = \"testing\"))]\nuse d;\n#[cfg(not(test))]\nfn e() {}\n";
        let source = Source::scan(text);
        let is_test = |needle: &str| source.is_test(text.find(needle).expect("it is there"));
        assert!(!is_test("a()"));
        assert!(is_test("b()"));
        assert!(!is_test("c()"));
        assert!(is_test("d;"));
        assert!(!is_test("e()"));
    }
}
