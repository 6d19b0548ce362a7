// SPDX-License-Identifier: Apache-2.0
//
// Who may import whom. Arrows point down only: a layer names layers that stand above it in this table, and nothing
// else. A new folder of Sources gets its row here, and that is a decision; see Documentation/Architecture.md.

/// One folder of Sources, which is one target.
struct Layer {
    /// The folder's name.
    let name: String
    /// The package's own modules that it may import.
    let layers: Set<String>
    /// Modules of other packages that it may import.
    let libraries: Set<String>
    /// Modules of the system and the toolchain that it may import.
    let systemModules: Set<String>
    /// Whether it is deterministic: everything that it does follows from what it is given. No clock, no random
    /// source, no thread, no system call.
    let isPure: Bool

    private init(
        _ name: String, layers: Set<String> = [], libraries: Set<String> = [], systemModules: Set<String> = [],
        isPure: Bool = false
    ) {
        self.name = name
        self.layers = layers
        self.libraries = libraries
        self.systemModules = systemModules
        self.isPure = isPure
    }

    /// All that its files may import.
    var imports: Set<String> { layers.union(libraries).union(systemModules) }

    /// The table, lowest layer first.
    static let all = [
        Layer("VsockWire", isPure: true),
        Layer("VsockCore", layers: ["VsockWire"], isPure: true),
        // Synchronization for the atomics that are bound on shared memory.
        Layer("VirtioQueue", systemModules: ["Synchronization"], isPure: true),
        Layer("VhostUser", isPure: true),
        // C: declarations that Swift cannot import by itself.
        Layer("CVsockLinux"),
        // The only layer that makes system calls.
        Layer("VsockSystem", layers: ["CVsockLinux"], systemModules: ["Glibc", "Synchronization"]),
        Layer(
            "VsockTransport", layers: ["VsockWire", "VsockCore", "VirtioQueue", "VhostUser", "VsockSystem"],
            libraries: ["Logging"], systemModules: ["Synchronization"]),
        // What programs import.
        Layer(
            "Vsock", layers: ["VsockWire", "VsockCore", "VsockSystem", "VsockTransport"], libraries: ["Logging"],
            systemModules: ["Synchronization"]),
        // Shared by tests: knows wire and core, and no more than they do.
        Layer("VsockTestSupport", layers: ["VsockWire", "VsockCore"], isPure: true),
        // Whole systems over a model of the kernel: not a clock, not a system call of its own.
        Layer(
            "VsockSimulation",
            layers: [
                "VsockWire", "VsockCore", "VirtioQueue", "VsockSystem", "VsockTransport", "VsockTestSupport",
            ], isPure: true),
        // C: preloaded into User Mode Linux; no part of this process.
        Layer("CGuestXstate"),
        Layer(
            "vsock",
            layers: ["VsockWire", "VsockCore", "VsockSystem", "VsockTransport", "Vsock", "VsockSimulation"],
            libraries: ["ArgumentParser", "Histogram", "Logging", "Yams"], systemModules: ["Synchronization"]),
        // Shared by tests: programs and their output.
        Layer("VsockTestPrograms", layers: ["VsockSystem"]),
        // The differential tester: no part of the product.
        Layer(
            "differential", layers: ["VsockWire", "VsockCore", "VsockSystem", "VsockTransport", "VsockTestSupport"],
            libraries: ["ArgumentParser"]),
    ]

    /// What an example may import: the product, and the C library.
    static let example = Layer("an example", layers: ["Vsock"], systemModules: ["Glibc"])

    /// The row of a folder.
    static func named(_ name: some StringProtocol) -> Layer? { all.first { $0.name == name } }
}
