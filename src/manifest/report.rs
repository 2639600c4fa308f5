//! Collects diagnostics and knows the texts that they point into.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use miette::NamedSource;

use crate::spec::{Name, SourceText};

use super::diagnostic::Label;
use super::limits::MAX_DIAGNOSTICS;
use super::{Diagnostic, Severity};

/// A range of bytes in a file of [`Files`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) file: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }
}

/// One text of the run. A file that is included twice is there twice, each with its namespace.
pub(crate) struct File {
    pub(crate) text: Arc<SourceText>,
    /// Relative paths in it resolve against this directory.
    pub(crate) dir: String,
    /// Names in it resolve below this.
    pub(crate) namespace: Option<Name>,
    named: OnceLock<Arc<NamedSource<Arc<str>>>>,
}

/// All texts of the run, by [`Span::file`].
#[derive(Default)]
pub(crate) struct Files {
    list: Vec<File>,
}

impl Files {
    pub(crate) fn add(
        &mut self,
        name: &str,
        text: Arc<str>,
        dir: String,
        namespace: Option<Name>,
    ) -> u32 {
        let text = Arc::new(SourceText::new(name, text));
        self.list.push(File { text, dir, namespace, named: OnceLock::new() });
        u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn of(&self, span: Span) -> &File {
        &self.list[span.file as usize]
    }

    /// The source text in `span`.
    pub(crate) fn slice(&self, span: Span) -> &str {
        let text = self.of(span).text.text();
        text.get(span.start as usize..span.end as usize).unwrap_or("")
    }

    pub(crate) fn texts(&self) -> Vec<Arc<SourceText>> {
        self.list.iter().map(|file| file.text.clone()).collect()
    }

    pub(crate) fn place(&self, span: Span) -> String {
        self.of(span).text.place(span.start as usize).to_string()
    }
}

/// A diagnostic in the making.
pub(crate) struct Problem {
    severity: Severity,
    span: Span,
    message: String,
    label: Option<String>,
    others: Vec<(Span, String)>,
    help: Option<String>,
}

impl Problem {
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span,
            message: message.into(),
            label: None,
            others: Vec::new(),
            help: None,
        }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Marks a further place.
    pub(crate) fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.others.push((span, label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds `did you mean` when `found` is close to one of `known`; else `otherwise` as help.
    pub(crate) fn suggest<'k>(
        self,
        found: &str,
        known: impl IntoIterator<Item = &'k str>,
        otherwise: impl FnOnce() -> Option<String>,
    ) -> Self {
        let help = match closest(found, known) {
            Some(close) => Some(format!("did you mean `{close}`?")),
            None => otherwise(),
        };
        Self { help: help.or(self.help.clone()), ..self }
    }
}

/// The word of `known` that `found` is most likely a misspelling of.
pub(crate) fn closest<'k>(
    found: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    const LONGEST: usize = 64;
    const SIMILAR: f64 = 0.75;
    if found.len() > LONGEST {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let found = plain(found);
    known
        .into_iter()
        .filter(|word| word.len() <= LONGEST)
        .map(|word| (similarity(&found, &plain(word)), word))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// From 0 to 1. Swapped neighbours (`bd` for `db`) count for more than they do in the measure.
fn similarity(found: &str, word: &str) -> f64 {
    const ONE_SLIP: f64 = 0.8;
    const SHORTEST: usize = 2;
    let score = strsim::jaro_winkler(found, word);
    let is_slip = found.len() >= SHORTEST
        && found.len().abs_diff(word.len()) <= 1
        && strsim::osa_distance(found, word) == 1;
    if is_slip { score.max(ONE_SLIP) } else { score }
}

/// What has been found so far.
#[derive(Default)]
pub(crate) struct Sink {
    found: Vec<(Span, Diagnostic)>,
    /// Defaults and templates take part in many sandboxes; what is wrong in them is said once.
    seen: HashSet<(Span, String)>,
    /// Lines (file, line) with a syntax error; what else is found there is a consequence.
    broken_lines: HashSet<(u32, u32)>,
    dropped: usize,
    pub(crate) errors: usize,
    pub(crate) syntax_errors: bool,
}

impl Sink {
    /// Adds a problem, unless it has been said or follows from a syntax error in its line.
    pub(crate) fn add(&mut self, files: &Files, problem: Problem) {
        if self.syntax_errors {
            let line = files.of(problem.span).text.place(problem.span.start as usize).line;
            if self.broken_lines.contains(&(problem.span.file, line)) {
                self.errors += 1;
                return;
            }
        }
        self.push(files, problem);
    }

    /// Adds something that is missing, unless it may stand in a part that could not be read.
    pub(crate) fn add_missing(&mut self, files: &Files, problem: Problem) {
        if self.syntax_errors {
            self.errors += 1;
        } else {
            self.push(files, problem);
        }
    }

    pub(crate) fn add_syntax(&mut self, files: &Files, problem: Problem) {
        let line = files.of(problem.span).text.place(problem.span.start as usize).line;
        self.syntax_errors = true;
        // One broken line often confuses the parser more than once.
        if self.broken_lines.insert((problem.span.file, line)) {
            self.push(files, problem);
        }
    }

    fn push(&mut self, files: &Files, problem: Problem) {
        if problem.severity == Severity::Error {
            self.errors += 1;
        }
        if !self.seen.insert((problem.span, problem.message.clone())) {
            return;
        }
        if self.found.len() >= MAX_DIAGNOSTICS {
            self.dropped += 1;
            return;
        }
        let span = problem.span;
        self.found.push((span, finish(files, problem)));
    }

    /// Whether further diagnostics are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MAX_DIAGNOSTICS
    }

    /// Everything found, by file and place.
    pub(crate) fn into_diagnostics(self) -> Vec<Diagnostic> {
        let mut found = self.found;
        found.sort_by_key(|(span, diagnostic)| {
            (span.file, diagnostic.offset().unwrap_or(usize::MAX))
        });
        let mut all: Vec<_> = found.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        if self.dropped > 0 {
            all.push(Diagnostic::error(format!("{} more errors are not shown", self.dropped)));
        }
        all
    }
}

fn finish(files: &Files, problem: Problem) -> Diagnostic {
    let file = files.of(problem.span);
    let mut labels = vec![Label {
        start: problem.span.start as usize,
        len: problem.span.len(),
        text: problem.label,
    }];
    let mut elsewhere = Vec::new();
    for (span, text) in problem.others {
        if span.file == problem.span.file {
            labels.push(Label { start: span.start as usize, len: span.len(), text: Some(text) });
        } else {
            elsewhere.push(format!("{text}: {}", files.place(span)));
        }
    }
    let named = file
        .named
        .get_or_init(|| Arc::new(NamedSource::new(file.text.name(), file.text.text().clone())));
    elsewhere.extend(problem.help);
    let diagnostic = match problem.severity {
        Severity::Error => Diagnostic::error(problem.message),
        Severity::Warning => Diagnostic::warning(problem.message),
    };
    let diagnostic = diagnostic.in_text(file.text.clone(), named.clone(), labels);
    if elsewhere.is_empty() { diagnostic } else { diagnostic.with_help(elsewhere.join("\n")) }
}
