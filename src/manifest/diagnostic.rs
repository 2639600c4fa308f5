//! Diagnostics with source excerpts.

use std::fmt;
use std::sync::Arc;

use miette::{LabeledSpan, NamedSource, SourceCode};

use crate::spec::{Origin, SourceText};

/// A text as `miette` wants it.
pub(crate) type NamedText = NamedSource<Arc<str>>;

/// One thing that is wrong (or odd) in a Sandboxfile. Rendered by `miette`; `Display` is the
/// message alone.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    help: Option<String>,
    text: Option<(Arc<SourceText>, Arc<NamedText>)>,
    labels: Vec<Label>,
}

/// Whether a diagnostic keeps the project from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does not.
    Warning,
    /// It does.
    Error,
}

/// A marked range of bytes in the text of a diagnostic. The first one is where it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) text: Option<String>,
}

impl Diagnostic {
    /// An error without a place yet.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            help: None,
            text: None,
            labels: Vec::new(),
        }
    }

    /// A warning without a place yet.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// Says what to do.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn in_text(
        mut self,
        text: Arc<SourceText>,
        named: Arc<NamedText>,
        labels: Vec<Label>,
    ) -> Self {
        self.text = Some((text, named));
        self.labels = labels;
        self
    }

    /// Points at the key that starts at `offset` of `text`.
    pub(crate) fn at_key(self, text: &Arc<SourceText>, offset: usize) -> Self {
        let rest = text.text().get(offset..).unwrap_or("");
        let len = rest.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(rest.len());
        let named = Arc::new(NamedSource::new(text.name(), text.text().clone()));
        self.in_text(text.clone(), named, vec![Label { start: offset, len, text: None }])
    }

    /// Whether it is an error or a warning.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one sentence fragment.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Where it happened.
    pub fn origin(&self) -> Option<Origin> {
        let (text, _) = self.text.as_ref()?;
        Some(text.place(self.labels.first()?.start))
    }

    /// Byte offset of the place in its text.
    pub(crate) fn offset(&self) -> Option<usize> {
        self.labels.first().map(|label| label.start)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Warning => miette::Severity::Warning,
            Severity::Error => miette::Severity::Error,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.text.as_ref().map(|(_, named)| &**named as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        if self.labels.is_empty() {
            return None;
        }
        let labels = self.labels.iter().enumerate().map(|(index, label)| {
            let text = label.text.clone();
            if index == 0 {
                LabeledSpan::new_primary_with_span(text, (label.start, label.len))
            } else {
                LabeledSpan::new_with_span(text, (label.start, label.len))
            }
        });
        Some(Box::new(labels))
    }
}
