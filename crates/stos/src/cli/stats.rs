// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands that look at containers that run: stats, top.

use clap::Args;

use super::Format;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos stats\n  stos stats --no-stream --format json web db")]
pub struct Stats {
    /// Containers that do not run, too
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// How the list looks: table, json (an array a line, sizes in bytes and times in nanoseconds), or a template such as
    /// '{{.Name}} {{.MemUsage}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub interval: u32,
    /// Look once
    #[arg(long)]
    pub no_stream: bool,
    /// Print below the last look, and not over it
    #[arg(long)]
    pub no_reset: bool,
    /// Print whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// The containers; by default all that run
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

// One list: descriptors and options of ps(1) follow the container.
#[derive(Debug, Args)]
#[command(after_help = "Descriptors, after the container, as words or with commas between:\n  \
                  args capamb capbnd capeff capinh capprm comm etime group groups hgroup hgroups hpid\n  \
                  huser label nice pcpu pgid pid ppid rgroup rss ruser seccomp state stime time tty uid\n  \
                  user vsz, and AIX codes of ps(1) such as %C\n\
                  Those with an h are the host's view. Options, such as -ef, are ps(1)'s, as for `ps`.\n\n\
                  Examples:\n  stos top web\n  stos top web pid,hpid,user,args")]
pub struct Top {
    /// How the list looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// The container, and what to show of its processes [default: user,pid,ppid,pcpu,etime,tty,time,args]
    #[arg(value_names = ["CONTAINER", "DESCRIPTOR"], required = true, num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

impl Top {
    /// Gives the container, and what follows it.
    pub fn container_and_words(&self) -> (&str, &[String]) {
        self.words.split_first().map_or(("", &[]), |(container, words)| (container, words))
    }
}
