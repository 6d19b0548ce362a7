// SPDX-License-Identifier: Apache-2.0
// The scripts that a guest runs: `firstStage` in the initial RAM file system of a QEMU guest, which finds the host's
// files; then `secondStage`, the same for every guest, from the host's files.
//
// The command's three streams and a control channel are devices: terminal lines in User Mode Linux, virtio-console ports
// in QEMU. The command gets pipes, copied to and from the devices, so that it finds no terminal where there is none.
// A terminal line carries input in chunks, each one read by dd and then said to be taken (see GuestRelay.swift).
// On the control channel the guest says "ready", "taken" for a chunk of input, "closed" when the command takes no more,
// then "exit STATUS", or "error REASON"; when the host closes the channel, the guest ends, so that no guest outlives the
// process that booted it.

/// Writes the scripts.
package struct GuestInit {
    /// The guest.
    package let configuration: GuestConfiguration
    /// busybox on the host; statically linked for QEMU.
    package let busybox: String
    /// The host's env(1), which finds the command as the host would; busybox would run itself in its place.
    package let env: String
    /// Module files for the second stage to insert, in order.
    package let moduleFiles: [String]
    /// The script of the initial RAM file system, where busybox is /busybox and `modules` are in /modules.
    package static func firstStage(modules: [String], next: String) -> String {
        """
        #!/busybox sh
        b=/busybox
        fail() { echo "vsock guest: $*" >/dev/console; $b poweroff -f; }
        $b mkdir -p /proc /dev /host
        $b mount -t proc proc /proc
        $b mount -t devtmpfs devtmpfs /dev
        for m in \(modules.map(quoted).joined(separator: " ")); do
            $b insmod /modules/$m || fail "module $m cannot be inserted"
        done
        $b mount -t virtiofs -o ro host /host || fail "the host's files cannot be mounted"
        $b umount /proc /dev
        exec $b switch_root /host \(quoted(next))

        """
    }

    /// The script that runs the command.
    package func secondStage() -> String {
        [prologue, channels, modules, directories, run].joined(separator: "\n")
    }

    private var prologue: String {
        """
        #!\(busybox) sh
        b=\(Self.quoted(busybox))
        $b mount -t proc proc /proc
        $b mount -t sysfs sysfs /sys
        $b mount -t devtmpfs devtmpfs /dev 2>/dev/null
        $b mkdir -p /dev/pts /dev/shm /dev/guest
        $b mount -t devpts devpts /dev/pts
        $b mount -t tmpfs tmpfs /dev/shm
        $b mount -t tmpfs tmpfs /dev/guest
        $b ln -sf /proc/self/fd /dev/fd
        $b ip link set lo up
        w=/dev/guest
        end() { $b \(configuration.kernel.monitor == .qemu ? "poweroff" : "halt") -f; }
        fail() { echo "error $*" >&3; end; }

        """
    }

    /// Opens the four devices as 3 (control), 4 (input), 5 (output) and 6 (errors).
    private var channels: String {
        switch configuration.kernel.monitor {
        case .userModeLinux:
            """
            exec 3<>/dev/ttyS0 4<>/dev/ttyS1 5>/dev/ttyS2 6>/dev/ttyS3
            for i in 0 2 3; do $b stty -F /dev/ttyS$i raw -echo; done
            $b stty -F /dev/ttyS1 raw -echo icanon iexten eof ^D lnext ^V intr undef quit undef erase undef \\
                kill undef eol undef eol2 undef start undef stop undef susp undef rprnt undef werase undef
            ($b cat <&3 >/dev/null 2>&1; end) & control=$!

            """
        case .qemu:
            // The host opens the ports in their order, control last: once a write to it has gone through, all are
            // open, and none takes the host for absent.
            """
            port() {
                n=0
                while [ $((n += 1)) -lt 100 ]; do
                    for d in /sys/class/virtio-ports/*; do
                        read -r name 2>/dev/null <$d/name && [ "$name" = $1 ] && p=/dev/${d##*/} && [ -e $p ] && return
                    done
                    $b sleep 0.1
                done
                echo "vsock guest: no port $1" >/dev/console
                end
            }
            port control; exec 3<>$p
            port input; exec 4<$p
            port output; exec 5>$p
            port errors; exec 6>$p
            echo hello >&3
            ($b cat <&3 >/dev/null 2>&1; end) & control=$!

            """
        }
    }

    /// Inserts the modules and makes sure of the device.
    private var modules: String {
        var text = ""
        if !moduleFiles.isEmpty {
            text = """
                for m in \(moduleFiles.map(Self.quoted).joined(separator: " ")); do
                    $b insmod $m || fail "module $m cannot be inserted"
                done

                """
        }
        if configuration.deviceSocket != nil {
            // 19 is the virtio device ID of a socket device (virtio 1.3 "Device Types").
            text += """
                found=
                for d in /sys/bus/virtio/devices/*; do
                    read -r id <$d/device && [ $((id)) = 19 ] && [ -e $d/driver ] && found=1
                done
                [ "$found" ] || fail "it has no vsock device, its device side refused it"

                """
        }
        return text
    }

    /// The directories that can be written to, and the one to run in.
    private var directories: String {
        """
        $b mount -t tmpfs tmpfs /run
        for d in /tmp /var/tmp; do
            $b mkdir -p $w/upper$d $w/work$d
            $b mount -t overlay -o lowerdir=$d,upperdir=$w/upper$d,workdir=$w/work$d overlay $d 2>/dev/null ||
                $b mount -t tmpfs tmpfs $d
            $b chmod 1777 $d
        done
        cd \(Self.quoted(configuration.workingDirectory)) 2>/dev/null ||
            fail "its working directory is not among the files it sees"

        """
    }

    private var run: String {
        let words = ([env, "-i"] + configuration.environment + configuration.command).map(Self.quoted)
        return """
            $b mkfifo $w/input $w/output $w/errors
            \(input)
            $b cat <$w/output >&5 & o=$!
            $b cat <$w/errors >&6 & e=$!
            (exec 3>&- 4>&- 5>&- 6>&-; exec \(words.joined(separator: " "))) \\
                <$w/input >$w/output 2>$w/errors & c=$!
            echo ready >&3
            wait $c; s=$?
            # What the command left running ends with it; what it wrote is still delivered.
            kill -9 $control
            for p in /proc/[0-9]*; do
                p=${p#/proc/}
                case " 1 $o $e " in *" $p "*) ;; *) kill -9 $p ;; esac
            done 2>/dev/null
            wait $o $e
            \(flush)
            echo "exit $s" >&3
            end

            """
    }

    /// Copies the input to the command's pipe.
    private var input: String {
        switch configuration.kernel.monitor {
        case .userModeLinux:
            // dd says how much it has read on its standard error, 0+0 records at the end of the file.
            """
            (while n=$($b dd bs=4096 count=1 <&4 2>&1 >&7); do
                case $n in 0+0*) exit ;; esac
                echo taken >&3
            done; echo closed >&3) 7>$w/input &
            """
        case .qemu: "$b dd bs=4096 <&4 >$w/input 2>/dev/null &"
        }
    }

    /// Waits until the host has the output: to set a terminal line's mode waits until the line has passed on everything.
    private var flush: String {
        switch configuration.kernel.monitor {
        case .userModeLinux: "for d in /dev/ttyS2 /dev/ttyS3; do $b stty -F $d raw; done"
        case .qemu: ":"
        }
    }

    /// A word of the shell that stands for exactly this text.
    package static func quoted(_ text: String) -> String {
        "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
    }
}
