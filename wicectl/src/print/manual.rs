//! The manual page: one for all subcommands, made of what `--help` says.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// The page as roff.
pub(crate) fn page(command: &Command) -> io::Result<String> {
    let mut roff = Vec::new();
    let whole = Man::new(command.clone());
    whole.render_title(&mut roff)?;
    whole.render_name_section(&mut roff)?;
    whole.render_synopsis_section(&mut roff)?;
    whole.render_description_section(&mut roff)?;
    whole.render_options_section(&mut roff)?;
    writeln!(roff, ".SH COMMANDS")?;
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name();
        writeln!(roff, ".SS {name}")?;
        let alone = subcommand
            .clone()
            .bin_name(format!("{} {name}", command.get_name()))
            .disable_help_flag(true)
            .disable_version_flag(true);
        let has_options = alone.get_arguments().next().is_some();
        let alone = Man::new(alone);
        let mut section = Vec::new();
        alone.render_synopsis_section(&mut section)?;
        writeln!(section, ".PP")?;
        alone.render_description_section(&mut section)?;
        if has_options {
            alone.render_options_section(&mut section)?;
        }
        // They are parts of a section here.
        for line in String::from_utf8_lossy(&section).lines() {
            if !line.starts_with(".SH ") {
                writeln!(roff, "{line}")?;
            }
        }
    }
    Ok(String::from_utf8_lossy(&roff).into_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_page_explains_the_options_of_every_subcommand() {
        let page = super::page(&crate::Arguments::command()).expect("written to memory");
        for part in [".SS status", ".SS restart", "\\-\\-json", "\\-\\-all"] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
    }
}
