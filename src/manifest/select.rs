//! Which sandboxes a command acts on.

use std::collections::BTreeSet;

use crate::spec::{Name, Project};

use super::report::closest;

/// A name on the command line that the project does not declare.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no sandbox is called `{name}`")]
pub struct UnknownSandbox {
    /// What was asked for.
    pub name: Name,
    /// A declared name that is close to it.
    pub suggestion: Option<Name>,
}

/// The sandboxes that a command acts on: `names` where there are any, else those without profiles
/// or with an active one; with everything that they depend on, whatever its profiles.
///
/// # Errors
/// The first of `names` that is not declared.
pub fn select(
    project: &Project,
    names: &[Name],
    profiles: &[Name],
) -> Result<BTreeSet<Name>, UnknownSandbox> {
    let mut next: Vec<&Name> = Vec::new();
    for name in names {
        let Some((name, _)) = project.sandboxes.get_key_value(name) else {
            let known = project.sandboxes.keys().map(Name::as_str);
            let suggestion = closest(name.as_str(), known).and_then(|name| Name::new(name).ok());
            return Err(UnknownSandbox { name: name.clone(), suggestion });
        };
        next.push(name);
    }
    if names.is_empty() {
        let active = project.sandboxes.iter().filter(|(_, spec)| {
            spec.profiles.is_empty() || spec.profiles.iter().any(|name| profiles.contains(name))
        });
        next.extend(active.map(|(name, _)| name));
    }
    let mut selected = BTreeSet::new();
    while let Some(name) = next.pop() {
        if selected.insert(name.clone()) {
            let spec = project.sandboxes.get(name);
            next.extend(spec.into_iter().flat_map(|spec| spec.depends_on.keys()));
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::{Condition, Dependency, Image, ImageSource, SandboxSpec};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn project() -> Project {
        let sandbox = |profiles: &[&str], needs: &[&str]| {
            let image = Image { source: ImageSource::Oci("i".into()), platform: None };
            let mut spec = SandboxSpec::new(image);
            spec.profiles = profiles.iter().map(|p| name(p)).collect();
            let dependency =
                Dependency { condition: Condition::Started, required: true, restart: false };
            spec.depends_on = needs.iter().map(|n| (name(n), dependency.clone())).collect();
            spec
        };
        let sandboxes = BTreeMap::from([
            (name("api"), sandbox(&[], &["db"])),
            (name("db"), sandbox(&["data"], &["disk"])),
            (name("disk"), sandbox(&["data"], &[])),
            (name("debug"), sandbox(&["dev"], &[])),
        ]);
        Project {
            name: name("p"),
            root: "/".into(),
            sandboxes,
            volumes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            registries: BTreeMap::new(),
        }
    }

    #[test]
    fn profiles_and_closures() {
        let selected = |names: &[&str], profiles: &[&str]| {
            let names: Vec<_> = names.iter().map(|n| name(n)).collect();
            let profiles: Vec<_> = profiles.iter().map(|n| name(n)).collect();
            select(&project(), &names, &profiles)
                .map(|set| set.iter().map(Name::to_string).collect::<Vec<_>>().join(" "))
                .map_err(|error| (error.to_string(), error.suggestion.map(String::from)))
        };
        assert_eq!(selected(&[], &[]).as_deref(), Ok("api db disk"));
        assert_eq!(selected(&[], &["dev"]).as_deref(), Ok("api db debug disk"));
        assert_eq!(selected(&["debug"], &[]).as_deref(), Ok("debug"));
        assert_eq!(selected(&["db"], &["dev"]).as_deref(), Ok("db disk"));
        let error = ("no sandbox is called `apo`".to_owned(), Some("api".to_owned()));
        assert_eq!(selected(&["apo"], &[]), Err(error));
    }
}
