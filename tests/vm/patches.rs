//! Every kind of patch, seen from inside.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use expect_test::expect;

use crate::cli::{environment, sh};
use crate::environment::Environment;
use crate::guest::driver_name;

const WEB: &str = r#"
name = "patched"

[sandbox.web]
image = "./image"
memory = "128MiB"
disk = "256MiB"
hostname = "page"
cmd = ["sleep", "100000"]
patches = [
  { mkdir = "/app", mode = "0750" },
  { text = "/app/hello", content = "hello\n", mode = "0600" },
  { text = "/srv/deep/er/file", content = "deep\n" },
  { append = "/etc/passwd", content = "guest:x:7:7::/:/bin/sh\n" },
  { append = "/etc/hosts", content = "10.1.2.3 myapp.local\n" },
  { append = "/etc/resolv.conf", content = "nameserver 10.9.8.7\n" },
  { copy_file = "./config.json", to = "/app/config.json" },
  { copy_file = "./config.json", to = "/bin/wc", mode = "0644", replace = true },
  { copy_dir = "./scripts", to = "/app/scripts" },
  { symlink = "../app/hello", at = "/etc/greeting" },
  { symlink = "../../../../../../app", at = "/up" },
  { text = "/up/through", content = "through\n" },
  { remove = "/etc/group" },
  { remove = "/root" },
  { text = "/root/.profile", content = "new\n" },
  { remove = "/bin/touch" },
]
"#;

const LOOK: &str = r#"
cd /; cat app/hello srv/deep/er/file etc/greeting app/through app/config.json bin/wc
ls -ldn app app/* app/scripts/* srv/deep | while read mode links uid gid size month day time name; do echo $mode $uid $gid $name; done
sh app/scripts/run; cat app/scripts/link
id -u guest; cat etc/passwd etc/resolv.conf
while read line; do case $line in *myapp*|*page*) echo $line;; esac; done < etc/hosts
cat etc/group; ls -a root; ls bin/touch; ls up/
"#;

#[test]
fn every_kind_of_patch() {
    let env = environment(&driver_name(), WEB);
    env.write("config.json", "{}\n");
    fs::create_dir(env.project().join("scripts")).unwrap();
    env.write("scripts/run", "echo ran\n");
    fs::set_permissions(env.project().join("scripts/run"), Permissions::from_mode(0o750)).unwrap();
    symlink("run", env.project().join("scripts/link")).unwrap();
    env.msb("up -d --wait").expect(0);

    let first = look(&env);
    expect![[r#"
        hello
        deep
        hello
        through
        {}
        {}
        drwxr-x--- 0 0 app
        -rw-r--r-- 0 0 app/config.json
        -rw------- 0 0 app/hello
        drwxr-xr-x 0 0 app/scripts
        lrwxrwxrwx 0 0 app/scripts/link -> run
        -rwxr-x--- 0 0 app/scripts/run
        -rw-r--r-- 0 0 app/through
        drwxr-xr-x 0 0 srv/deep
        ran
        echo ran
        7
        root:x:0:0::/root:/bin/sh
        nobody:x:1000:1000::/home/nobody:/bin/sh
        guest:x:7:7::/:/bin/sh
        nameserver 10.9.8.7
        10.1.2.3 myapp.local
        127.0.1.1 page
        .
        ..
        .profile
        config.json
        hello
        scripts
        through
        --
        cat: can't open 'etc/group': No such file or directory
        ls: bin/touch: No such file or directory
    "#]]
    .assert_eq(&first);
    let layer = env.home().sandbox(&env.row("web").id).join("patches.erofs");
    let before = fs::read(&layer).unwrap();

    // What the guest writes is on its disk, and nothing is applied a second time.
    sh(&env, &[], "web", "echo mine > /app/config.json; echo own >> /etc/hosts").expect(0);
    env.msb("stop").expect(0);
    env.msb("start").expect(0);
    let second = look(&env);
    assert_eq!(second, first.replacen("{}\n", "mine\n", 1));
    assert_eq!(sh(&env, &[], "web", "cat /etc/hosts").stdout.matches("myapp").count(), 1);
    assert!(sh(&env, &[], "web", "cat /etc/hosts").stdout.contains("own\n"));
    assert!(fs::read(&layer).unwrap() == before, "the layer was written to");

    env.write("config.json", "{1}\n");
    env.msb("up -d --wait -y").expect(0).ends_with("1 replaced");
    assert_eq!(look(&env), first.replace("{}\n", "{1}\n"));
    env.msb("down").expect(0);
}

fn look(env: &Environment) -> String {
    let ran = sh(env, &[], "web", LOOK);
    format!("{}--\n{}", ran.stdout, ran.stderr)
}
