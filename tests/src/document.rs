//! The examples of the project's documents, as they stand there. Knows how they are marked, not what they do.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Returns the blocks of code in this language between a heading of the second level and the next one.
pub fn examples(path: &str, heading: &str, language: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut sections = text.split("\n## ").skip(1);
    let section = sections
        .find(|section| section.lines().next() == Some(heading))
        .with_context(|| format!("{} has no section {heading}", path.display()))?;
    let opening = format!("```{language}\n");
    let blocks = section.split(opening.as_str()).skip(1);
    let code = blocks.filter_map(|block| Some(block.split_once("\n```")?.0.to_owned()));
    Ok(code.collect())
}
