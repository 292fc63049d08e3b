#!/bin/sh
# Makes a fresh root filesystem a machine of the lab: sh customize.sh ROOT OUT WHEELS KEY
# ROOT is the filesystem, OUT takes the kernel and the initrd, WHEELS holds what the venv needs,
# and KEY is the public key that opens the machine. mmdebstrap runs it with its own apt at hand.
set -eu
root=$1 out=$2 wheels=$3 key=$4
here=$(cd "$(dirname "$0")" && pwd)
export APT_CONFIG="${MMDEBSTRAP_APT_CONFIG:-}"

# --- The kernel: unpacked, not installed, so that no initramfs-tools and no bootloader come along.
deb=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p')
(cd "$out" && apt-get -q download "$deb")
mkdir "$out/kernel"
# Only what such a machine can use: unpacking all would take most of the time and of the disk.
dpkg-deb --fsys-tarfile "$out/$deb"*.deb | tar -x -C "$out/kernel" --wildcards \
  --exclude='*/kernel/sound' --exclude='*/kernel/drivers/[acdeg-mo-u]*' \
  --exclude='*/kernel/drivers/w*' --exclude='*/kernel/drivers/n[ftuv]*' \
  --exclude='*/kernel/drivers/net/*/*' --exclude='*/kernel/net/wireless' \
  --exclude='*/kernel/net/mac80211' \
  --exclude='*/kernel/net/bluetooth' --exclude='*/kernel/fs/xfs' --exclude='*/kernel/fs/btrfs' \
  --exclude='*/kernel/fs/ocfs2' --exclude='*/kernel/fs/ceph' --exclude='*/kernel/fs/smb' \
  --exclude='./usr/share' --exclude='*/System.map-*'
rm "$out/$deb"*.deb
version=$(basename "$out"/kernel/boot/vmlinuz-*)
version=${version#vmlinuz-}
mv "$out/kernel/boot/vmlinuz-$version" "$out/vmlinuz"
modules=$out/kernel/lib/modules
[ -d "$modules" ] || modules=$out/kernel/usr/lib/modules
mkdir -p "$root/lib/modules"
mv "$modules/$version" "$root/lib/modules/$version"
rm -r "$out/kernel"
chroot "$root" depmod "$version"

# --- The initrd: the modules for the disk, and an init of a few lines.
initrd=$root/tmp/initrd
mkdir -p "$initrd/bin" "$initrd/modules" "$initrd/dev" "$initrd/proc" "$initrd/sys" "$initrd/root"
cp "$root/bin/busybox" "$initrd/bin/busybox"
cp "$here/initrd-init.sh" "$initrd/init"
chmod 755 "$initrd/init"
for wanted in virtio_pci virtio_blk ext4 virtio_net 9p 9pnet_virtio; do
  chroot "$root" modprobe -S "$version" --show-depends "$wanted"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' > "$initrd/list"
while read -r module; do
  name=$(basename "$module" .xz)
  case $module in
    *.xz) xz -dc "$root$module" > "$initrd/modules/$name" ;;
    *) cp "$root$module" "$initrd/modules/$name" ;;
  esac
  echo "$name"
done < "$initrd/list" > "$initrd/modules/order"
# Not compressed: unpacking is dear under emulation, loading costs nothing.
(cd "$initrd" && find . | ./bin/busybox cpio -o -H newc > "$out/initrd" 2>/dev/null)
rm -r "$initrd"

# --- Users.
inside() { chroot "$root" "$@"; }
inside groupadd --gid 2000 lab
inside useradd --uid 1000 --user-group --create-home haku
inside useradd --uid 1001 --user-group --create-home --groups lab worker
inside useradd --uid 1002 --user-group --create-home lin
# Open for keys, not for passwords: sshd takes "!" for a locked account.
for user in root haku worker lin; do
  home=$(inside getent passwd "$user" | cut -d: -f6)
  # The shell that starts quickest runs what is sent over ssh.
  inside usermod --password '*' --shell /bin/sh "$user"
  install -d -m 700 "$root$home/.ssh"
  install -m 600 "$key" "$root$home/.ssh/authorized_keys"
  inside chown -R "$user:" "$home/.ssh"
done
echo 'haku ALL=(ALL) NOPASSWD: /usr/bin/systemd-run, /usr/bin/systemctl' > "$root/etc/sudoers.d/haku"
chmod 440 "$root/etc/sudoers.d/haku"
install -d "$root/var/lib/systemd/linger"
touch "$root/var/lib/systemd/linger/lin"

# --- The machine. Its name and its id come with the kernel's command line.
printf '127.0.0.1 localhost\n127.0.1.1 node1 node2\n10.0.2.2 outside\n' > "$root/etc/hosts"
echo lab > "$root/etc/hostname"
# An empty one would make this a first boot, which enables what is switched off below.
echo 00000000000000000000000000001ab0 > "$root/etc/machine-id"
install -d "$root/shared"
cat > "$root/etc/fstab" <<'END'
shared /shared 9p trans=virtio,version=9p2000.L,msize=262144,access=client,nofail 0 0
END
install -d "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf.d/lab.conf"
rm -f "$root"/etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C lab -f "$root/etc/ssh/ssh_host_ed25519_key"
# Without PAM a login starts no user manager of its own, which would take seconds.
cat > "$root/etc/ssh/sshd_config" <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxSessions 100
MaxStartups 100
PrintMotd no
PrintLastLog no
SetEnv PATH=/opt/hakuriver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Subsystem sftp internal-sftp
END
cp "$here/lab-ready.service" "$root/etc/systemd/system/"

inside systemctl -q enable ssh.service lab-ready.service
inside systemctl -q set-default multi-user.target
# Each of these starts a process, and a process costs a second of a boot under emulation. The
# initrd has loaded the modules and set up the network, so that nothing needs udev's first round.
inside systemctl -q mask systemd-networkd.service systemd-networkd.socket systemd-timesyncd.service \
  systemd-networkd-wait-online.service systemd-network-generator.service kmod-static-nodes.service \
  systemd-modules-load.service systemd-udev-trigger.service systemd-udev-load-credentials.service \
  systemd-remount-fs.service systemd-sysctl.service systemd-tmpfiles-setup-dev-early.service \
  systemd-tmpfiles-setup-dev.service run-lock.mount \
  systemd-resolved.service systemd-pstore.service systemd-update-utmp.service \
  systemd-update-utmp-runlevel.service systemd-ask-password-wall.path systemd-ask-password-console.path \
  systemd-binfmt.service systemd-hwdb-update.service systemd-random-seed.service \
  systemd-networkd-persistent-storage.service systemd-journal-flush.service \
  systemd-journal-catalog-update.service ldconfig.service systemd-machine-id-commit.service \
  systemd-firstboot.service systemd-sysusers.service systemd-update-done.service \
  systemd-boot-system-token.service systemd-rfkill.socket modprobe@.service \
  getty.target getty@.service serial-getty@.service console-getty.service autovt@.service \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer man-db.timer logrotate.timer systemd-tmpfiles-clean.timer \
  dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  sys-fs-fuse-connections.mount sys-kernel-config.mount \
  proc-sys-fs-binfmt_misc.automount keyboard-setup.service console-setup.service

# --- The venv with what the project needs, without the project.
cp -r "$wheels" "$root/tmp/wheels"
inside python3 -m venv /opt/hakuriver
inside sh -c '/opt/hakuriver/bin/python -m pip install -q --disable-pip-version-check --no-index \
  --no-compile --no-deps --root-user-action=ignore /tmp/wheels/*.whl'
rm -r "$root/tmp/wheels"
# Compiled for good: mmdebstrap sets back the sources' times, and compiling anew at each start of a
# runner takes twenty seconds under emulation.
inside /opt/hakuriver/bin/python -m compileall -q -f --invalidation-mode unchecked-hash \
  -x '/pip/' /opt/hakuriver/lib
rm -rf "$root"/var/cache/* "$root"/var/log/*.log
