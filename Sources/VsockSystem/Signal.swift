// SPDX-License-Identifier: Apache-2.0
//
// Numbers of signals, signal(7), for callers that do not import the C library. Only those that some caller names.

import Glibc

/// Signals by name.
public enum Signal {
    /// SIGHUP
    public static var hangUp: Int32 { SIGHUP }
    /// SIGINT
    public static var interrupt: Int32 { SIGINT }
    /// SIGKILL
    public static var kill: Int32 { SIGKILL }
    /// SIGPIPE
    public static var brokenPipe: Int32 { SIGPIPE }
    /// SIGTERM
    public static var terminate: Int32 { SIGTERM }
}
