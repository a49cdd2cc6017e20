//! Debian's kernels: fetched once each, into the target directory, by apt with a configuration of its own.
//!
//! Nothing is installed and the system's package lists stay as they are. Mirror, proxies and keys are the system's.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::command;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// The oldest that fdtrace supports (Debian 11)
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13
    #[value(name = "6.12")]
    V6_12,
    /// What Debian's unstable distribution has today
    #[value(name = "newest")]
    Newest,
}

impl Kernel {
    pub const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::Newest];
    /// The one to run when there is time for one.
    pub const USUAL: Self = Self::V6_1;

    /// What fdtrace must say of what this kernel lacks.
    pub fn complaint(self) -> Option<&'static str> {
        match self {
            Self::V5_10 => Some("no stacks and no owners, only calls: they need Linux 5.17"),
            Self::V6_1 | Self::V6_12 | Self::Newest => None,
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::Newest => "sid",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        })
    }
}

/// A kernel on disk.
pub struct Image {
    pub kernel: Kernel,
    pub package: String,
    pub path: PathBuf,
    /// For what its machine prints.
    pub directory: PathBuf,
}

/// Where everything of ours is.
pub fn directory() -> Result<PathBuf> {
    Ok(command::target_directory()?.join("vm"))
}

/// The kernel: from disk, where it is; else from Debian.
pub fn image(kernel: Kernel) -> Result<Image> {
    let directory = directory()?.join(kernel.to_string());
    let path = directory.join("vmlinuz");
    let named = directory.join("package");
    if !path.is_file() || !named.is_file() {
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let package = fetch(kernel.suite(), &directory, &path)
            .with_context(|| format!("cannot get the kernel of Debian {}", kernel.suite()))?;
        fs::write(&named, package).with_context(|| format!("cannot write {}", named.display()))?;
    }
    let package = fs::read_to_string(&named).with_context(|| format!("cannot read {}", named.display()))?;
    Ok(Image { kernel, package, path, directory })
}

/// Downloads and unpacks; the name of the package.
fn fetch(suite: &str, directory: &Path, path: &Path) -> Result<String> {
    if let Some(missing) = ["apt-get", "apt-cache", "dpkg-deb"].iter().find(|tool| command::find(tool).is_none()) {
        bail!("no {missing} here: Debian's kernels are fetched with Debian's tools");
    }
    let apt = Apt::prepare(suite, &directory.join("apt"))?;
    command::run(apt.command("apt-get").arg("update"))?;
    let image = apt.dependency("linux-image-cloud-amd64", "linux-image-")?.context("there is no kernel package")?;
    // Since 7.x the kernel itself is in a package of its own.
    let package = apt.dependency(&image, "linux-binary-")?.unwrap_or(image);
    let unpacked = directory.join("unpacked");
    empty(&unpacked)?;
    command::run(apt.command("apt-get").current_dir(&unpacked).args(["download", &package]))?;
    let archive = only_file(&unpacked)?;
    command::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    let kernel = find_kernel(&unpacked).with_context(|| format!("there is no kernel in {package}"))?;
    fs::copy(&kernel, path).with_context(|| format!("cannot copy {}", kernel.display()))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
    fs::remove_dir_all(apt.root).context("cannot remove apt's lists")?;
    Ok(package)
}

fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

fn only_file(directory: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(directory)?.next().context("apt-get downloaded nothing")?;
    Ok(entry?.path())
}

fn find_kernel(unpacked: &Path) -> Option<PathBuf> {
    let below = |directory: &str| fs::read_dir(unpacked.join(directory)).into_iter().flatten().flatten();
    let in_boot = below("boot").map(|entry| entry.path());
    let in_modules = below("usr/lib/modules").map(|entry| entry.path().join("vmlinuz"));
    let is_kernel = |path: &PathBuf| {
        path.is_file() && path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz"))
    };
    in_boot.chain(in_modules).find(is_kernel)
}

/// Apt with lists and caches of its own.
struct Apt {
    root: PathBuf,
    configuration: PathBuf,
}

impl Apt {
    fn prepare(suite: &str, root: &Path) -> Result<Self> {
        let source = Source::of_system();
        for directory in ["state/lists/partial", "cache/archives/partial"] {
            let directory = root.join(directory);
            fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let (list, status, configuration) = (root.join("sources.list"), root.join("status"), root.join("apt.conf"));
        let text = format!("deb [signed-by={}] {} {suite} main\n", source.key, source.uri);
        fs::write(&list, text).with_context(|| format!("cannot write {}", list.display()))?;
        fs::write(&status, "").with_context(|| format!("cannot write {}", status.display()))?;
        // The system's own configuration is read first: proxies and the like stay, its hooks do not.
        let text = format!(
            "Dir::State \"{root}/state\";\nDir::State::status \"{root}/status\";\nDir::Cache \"{root}/cache\";\n\
             Dir::Etc::sourcelist \"{root}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             APT::Architecture \"amd64\";\n#clear APT::Architectures;\nAPT::Architectures {{ \"amd64\"; }};\n\
             Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             #clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n",
            root = root.display()
        );
        fs::write(&configuration, text).with_context(|| format!("cannot write {}", configuration.display()))?;
        Ok(Self { root: root.to_owned(), configuration })
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.env("LC_ALL", "C").arg("--config-file").arg(&self.configuration);
        command
    }

    /// What `package` depends on that begins with `prefix`.
    fn dependency(&self, package: &str, prefix: &str) -> Result<Option<String>> {
        let text = command::output(self.command("apt-cache").args(["depends", package]))?;
        Ok(dependency(&text, prefix).map(str::to_owned))
    }
}

fn dependency<'a>(depends: &'a str, prefix: &str) -> Option<&'a str> {
    depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| name.starts_with(prefix))
}

/// Where packages come from.
struct Source {
    uri: String,
    key: String,
}

impl Source {
    const URI: &'static str = "http://deb.debian.org/debian";
    const KEY: &'static str = "/usr/share/keyrings/debian-archive-keyring.gpg";

    /// Debian's archive as this system has it configured; the public one where it is no Debian.
    fn of_system() -> Self {
        let targets = command::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(REPO_URI)",
            "Created-By: Packages",
        ]));
        let uri = targets.ok().and_then(|targets| archive(&targets).map(str::to_owned));
        Self { uri: uri.unwrap_or_else(|| Self::URI.to_owned()), key: Self::KEY.to_owned() }
    }
}

/// The main archive among repositories, each an origin and an address: security updates and other people's packages are others.
fn archive(repositories: &str) -> Option<&str> {
    let of_debian = repositories.lines().filter_map(|line| line.strip_prefix("Debian "));
    of_debian.map(|uri| uri.trim_end_matches('/')).find(|uri| uri.ends_with("/debian"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_archive_is_found() {
        let repositories = "Other https://example.org/debian/\nDebian https://example.org/debian-security/\n\
                            Debian https://mirror.example.org/debian/\n";
        assert_eq!(archive(repositories), Some("https://mirror.example.org/debian"));
        assert_eq!(archive("Ubuntu https://example.org/ubuntu/\n"), None);
    }

    #[test]
    fn dependencies_are_read() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n  Suggests: other\n";
        assert_eq!(dependency(depends, "linux-image-"), Some("linux-image-6.1.0-1-cloud-amd64"));
        assert_eq!(dependency(depends, "linux-binary-"), None);
    }
}
