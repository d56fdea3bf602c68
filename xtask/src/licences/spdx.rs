//! SPDX licence expressions: `MIT OR (Apache-2.0 AND ISC)`, as far as packages use them.
//!
//! `AND` binds closer than `OR`, and `ID WITH EXCEPTION` is one licence. The old form `MIT/Apache-2.0` means `OR`.

/// Why an expression has no meaning.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdxError {
    #[error("it ends too early")]
    Incomplete,
    #[error("`{0}` is not expected there")]
    Misplaced(String),
}

/// Whether accepting only those licences for which `accepts` holds is enough to satisfy the expression.
pub(super) fn is_satisfied(
    expression: &str,
    accepts: impl Fn(&str) -> bool,
) -> Result<bool, SpdxError> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser {
        words: &words,
        accepts: &accepts,
    };
    let satisfied = parser.any_of()?;
    match parser.words.first() {
        None => Ok(satisfied),
        Some(word) => Err(SpdxError::Misplaced((*word).to_owned())),
    }
}

struct Parser<'a, F> {
    words: &'a [&'a str],
    accepts: &'a F,
}

impl<'a, F: Fn(&str) -> bool> Parser<'a, F> {
    fn any_of(&mut self) -> Result<bool, SpdxError> {
        let mut satisfied = self.all_of()?;
        while self.take("OR") {
            satisfied |= self.all_of()?;
        }
        Ok(satisfied)
    }

    fn all_of(&mut self) -> Result<bool, SpdxError> {
        let mut satisfied = self.one()?;
        while self.take("AND") {
            satisfied &= self.one()?;
        }
        Ok(satisfied)
    }

    fn one(&mut self) -> Result<bool, SpdxError> {
        let word = self.next()?;
        if word == "(" {
            let satisfied = self.any_of()?;
            let end = self.next()?;
            return if end == ")" {
                Ok(satisfied)
            } else {
                Err(SpdxError::Misplaced(end.to_owned()))
            };
        }
        if is_operator(word) {
            return Err(SpdxError::Misplaced(word.to_owned()));
        }
        if !self.take("WITH") {
            return Ok((self.accepts)(word));
        }
        let exception = self.next()?;
        if is_operator(exception) {
            return Err(SpdxError::Misplaced(exception.to_owned()));
        }
        Ok((self.accepts)(&format!("{word} WITH {exception}")))
    }

    fn next(&mut self) -> Result<&'a str, SpdxError> {
        let (first, rest) = self.words.split_first().ok_or(SpdxError::Incomplete)?;
        self.words = rest;
        Ok(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }
}

fn is_operator(word: &str) -> bool {
    matches!(word, "(" | ")" | "AND" | "OR" | "WITH")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mit_and_isc(expression: &str) -> Result<bool, SpdxError> {
        is_satisfied(expression, |id| matches!(id, "MIT" | "ISC"))
    }

    #[test]
    fn expressions_mean_what_spdx_says() {
        for (expression, satisfied) in [
            ("MIT", true),
            ("Apache-2.0", false),
            ("MIT OR Apache-2.0", true),
            ("Apache-2.0 OR MIT", true),
            ("MIT AND Apache-2.0", false),
            ("MIT AND ISC", true),
            // AND binds closer than OR.
            ("MIT OR Apache-2.0 AND Zlib", true),
            ("Zlib AND MIT OR Apache-2.0", false),
            ("Zlib AND (MIT OR Apache-2.0)", false),
            ("ISC AND (Apache-2.0 OR MIT)", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
            ("ISC AND (Apache-2.0 OR (MIT AND ISC))", true),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 / MIT", true),
        ] {
            assert_eq!(with_mit_and_isc(expression), Ok(satisfied), "{expression}");
        }
    }

    #[test]
    fn a_licence_with_an_exception_is_another_licence() {
        let llvm = "Apache-2.0 WITH LLVM-exception";
        assert_eq!(is_satisfied(llvm, |id| id == "Apache-2.0"), Ok(false));
        assert_eq!(is_satisfied(llvm, |id| id == llvm), Ok(true));
        assert_eq!(
            is_satisfied("GPL-2.0 WITH X OR MIT", |id| id == "MIT"),
            Ok(true)
        );
    }

    #[test]
    fn what_has_no_meaning_is_an_error_and_never_satisfied() {
        for expression in [
            "",
            "MIT OR",
            "(MIT",
            "MIT)",
            "AND MIT",
            "MIT ISC",
            "MIT WITH OR",
            "()",
        ] {
            assert!(with_mit_and_isc(expression).is_err(), "{expression:?}");
        }
    }
}
