//! What the documents say, taken from their Markdown: commands, words in code, links, exit statuses.

/// A part of a document, and the line it begins on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is written there.
    pub(crate) text: String,
}

impl Piece {
    fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

/// A document in parts.
#[derive(Default)]
pub(crate) struct Document {
    /// Commands of the fenced blocks: every line, or in `console` blocks, which show answers too, those with a prompt.
    pub(crate) commands: Vec<Piece>,
    /// Code within the text.
    pub(crate) inline: Vec<Piece>,
    /// Paragraphs and tables, without that code.
    prose: Vec<Piece>,
    /// Every line.
    lines: Vec<Piece>,
}

impl Document {
    /// Takes a document apart.
    pub(crate) fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut fence: Option<&str> = None;
        let mut paragraph = Piece::new(1, "");
        let mut command = Piece::new(1, "");
        for (line, text) in (1..).zip(text.lines()) {
            document.lines.push(Piece::new(line, text));
            if let Some(kind) = text.trim_start().strip_prefix("```") {
                document.end(&mut paragraph);
                fence = if fence.is_some() { None } else { Some(kind.trim()) };
            } else if let Some(kind) = fence {
                let written = if kind == "console" { after_prompt(text) } else { Some(text.trim()) };
                let Some(written) = written else { continue };
                if command.text.is_empty() {
                    command.line = line;
                }
                command.text.push_str(written.trim_end_matches('\\'));
                if !written.ends_with('\\') {
                    document.commands.push(std::mem::replace(&mut command, Piece::new(line, "")));
                }
            } else if text.trim().is_empty() {
                document.end(&mut paragraph);
            } else {
                if paragraph.text.is_empty() {
                    paragraph.line = line;
                }
                paragraph.text.push_str(text);
                paragraph.text.push('\n');
            }
        }
        document.end(&mut paragraph);
        document
    }

    /// Ends a paragraph: its code and its other text go their ways.
    fn end(&mut self, paragraph: &mut Piece) {
        let mut prose = String::new();
        let mut line = paragraph.line;
        for (at, part) in paragraph.text.split('`').enumerate() {
            if at % 2 == 0 {
                prose.push_str(part);
            } else {
                self.inline.push(Piece::new(line, part.split_whitespace().collect::<Vec<_>>().join(" ")));
                prose.push_str(&"\n".repeat(part.matches('\n').count()));
            }
            line += part.matches('\n').count();
        }
        self.prose.push(Piece::new(paragraph.line, prose));
        *paragraph = Piece::new(line, "");
    }

    /// Where relative links lead.
    pub(crate) fn relative_links(&self) -> Vec<Piece> {
        let mut links = Vec::new();
        for Piece { line, text } in &self.prose {
            for (at, _) in text.match_indices("](") {
                let rest = &text[at + 2..];
                let end = rest.find(')').unwrap_or(rest.len());
                let line = line + text[..at].matches('\n').count();
                links.push(Piece::new(line, rest[..end].split(['#', ' ']).next().unwrap_or_default()));
            }
        }
        links.retain(|link| {
            !link.text.is_empty() && !link.text.contains("://") && !link.text.starts_with("mailto:")
        });
        links
    }

    /// The exit statuses that are named: `status 3`, or a number in a table's column of statuses. A number of three
    /// digits is HTTP's.
    pub(crate) fn statuses(&self) -> Vec<Piece> {
        let mut statuses = Vec::new();
        let mut columns: Option<Vec<bool>> = None;
        for Piece { line, text } in &self.lines {
            let text = text.replace('`', "");
            let words: Vec<&str> = text.split_whitespace().collect();
            let named = words.windows(2).filter(|pair| is_status(pair[0])).map(|pair| pair[1]);
            statuses.extend(named.map(|word| Piece::new(*line, word)));
            let Some(row) = text.trim().strip_prefix('|') else {
                columns = None;
                continue;
            };
            let cells = row.split('|');
            match &columns {
                None => columns = Some(cells.map(|cell| cell.split_whitespace().any(is_status)).collect()),
                Some(columns) => {
                    let cells = cells.zip(columns).filter(|(_, is)| **is).map(|(cell, _)| cell);
                    statuses
                        .extend(cells.flat_map(str::split_whitespace).map(|word| Piece::new(*line, word)));
                }
            }
        }
        for status in &mut statuses {
            status.text = status.text.trim_matches(|char: char| !char.is_alphanumeric()).to_owned();
        }
        statuses.retain(|status| status.text.parse::<u32>().is_ok_and(|number| number < 100));
        statuses
    }
}

fn is_status(word: &str) -> bool {
    matches!(word.to_lowercase().as_str(), "status" | "statuses")
}

fn after_prompt(line: &str) -> Option<&str> {
    line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")).map(str::trim)
}

/// The calls of programs in a line of shell, each as its words, up to a comment. Variables that are set for a call are
/// left out, and so is what a unit writes before it.
pub(crate) fn calls(line: &str) -> Vec<Vec<&str>> {
    let words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
    let words: Vec<&str> = words.collect();
    words
        .split(|word| matches!(*word, "&&" | "||" | "|" | ";"))
        .map(|call| {
            let call = call.iter().map(|word| match word.split_once('=') {
                Some((key, program)) if key.starts_with("Exec") => {
                    program.trim_start_matches(['-', '+', '!'])
                }
                _ => word,
            });
            call.skip_while(|word| is_assignment(word) || *word == "sudo").collect()
        })
        .collect()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|char| char == '_' || char.is_ascii_uppercase())
    })
}
