// swift-tools-version: 6.2
//
// The layers, lowest first; each target names all it may import. LayeringTests holds the sources against this list.

import PackageDescription

let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
    name: "swift-vsock",
    platforms: [.macOS(.v26)],
    products: [
        .executable(name: "vsock", targets: ["vsock"]),
        .library(name: "Vsock", targets: ["Vsock"]),
        // For the fuzzers, which run on its model of the kernel; nothing in it is public.
        .library(name: "VsockSimulation", targets: ["VsockSimulation"]),
        // Preloaded into User Mode Linux by `vsock guest`.
        .library(name: "GuestXstate", type: .dynamic, targets: ["CGuestXstate"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // Bytes and values.
        .target(name: "VsockWire", swiftSettings: settings),
        // Connections, credit, framings, timers; no I/O.
        .target(name: "VsockCore", dependencies: ["VsockWire"], swiftSettings: settings),
        // Guest memory and split rings.
        .target(name: "VirtioQueue", swiftSettings: settings),
        // vhost-user messages and sessions; no I/O.
        .target(name: "VhostUser", swiftSettings: settings),
        // The only code that makes system calls.
        .target(name: "CVsockLinux"),
        .target(name: "VsockSystem", dependencies: ["CVsockLinux"], swiftSettings: settings),
        // What joins the above.
        .target(
            name: "VsockTransport",
            dependencies: [
                "VsockWire", "VsockCore", "VirtioQueue", "VhostUser", "VsockSystem",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: settings),
        // Sockets for programs.
        .target(
            name: "Vsock",
            dependencies: [
                "VsockWire", "VsockCore", "VsockSystem", "VsockTransport",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: settings),
        // Whole systems on virtual time, over a model of the kernel.
        .target(
            name: "VsockSimulation",
            dependencies: [
                "VsockWire", "VsockCore", "VirtioQueue", "VsockSystem", "VsockTransport", "VsockTestSupport",
            ], swiftSettings: settings),
        // What User Mode Linux needs on processors with AMX.
        .target(name: "CGuestXstate"),
        // The command.
        .executableTarget(
            name: "vsock",
            dependencies: [
                "VsockWire", "VsockCore", "VsockSystem", "VsockTransport", "Vsock", "VsockSimulation",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Yams", package: "Yams"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ], swiftSettings: settings),

        // What a program that uses the package looks like; see Examples/README.md.
        .executableTarget(
            name: "EchoServer", dependencies: ["Vsock"], path: "Examples/EchoServer", swiftSettings: settings),
        .executableTarget(
            name: "RecordClient", dependencies: ["Vsock"], path: "Examples/RecordClient", swiftSettings: settings),
        .executableTarget(
            name: "EmbeddedDevice", dependencies: ["Vsock"], path: "Examples/EmbeddedDevice", swiftSettings: settings),
        .executableTarget(
            name: "Conversation", dependencies: ["Vsock"], path: "Examples/Conversation", swiftSettings: settings),

        // The differential tester: random socket calls on this package's loopback and on the kernel's.
        .executableTarget(
            name: "differential",
            dependencies: [
                "VsockWire", "VsockCore", "VsockSystem", "VsockTransport", "VsockTestSupport",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], swiftSettings: settings),

        // Helpers of tests: without system calls, and programs that tests run.
        .target(name: "VsockTestSupport", dependencies: ["VsockWire", "VsockCore"], swiftSettings: settings),
        .target(name: "VsockTestPrograms", dependencies: ["VsockSystem"], swiftSettings: settings),
        .testTarget(name: "VsockWireTests", dependencies: ["VsockWire", "VsockTestSupport"], swiftSettings: settings),
        .testTarget(
            name: "VsockCoreTests", dependencies: ["VsockWire", "VsockCore", "VsockTestSupport"],
            swiftSettings: settings),
        .testTarget(name: "VirtioQueueTests", dependencies: ["VirtioQueue"], swiftSettings: settings),
        .testTarget(name: "VhostUserTests", dependencies: ["VhostUser"], swiftSettings: settings),
        .testTarget(
            name: "VsockSystemTests", dependencies: ["VsockSystem", "CVsockLinux", "VsockTestSupport"],
            swiftSettings: settings),
        .testTarget(
            name: "VsockTransportTests",
            dependencies: [
                "VsockTransport", "VsockWire", "VsockCore", "VirtioQueue", "VhostUser", "VsockSystem",
                "VsockTestSupport",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: settings),
        .testTarget(
            name: "SocketTests",
            dependencies: [
                "VsockWire", "VsockCore", "VirtioQueue", "VsockSystem", "VsockTransport", "Vsock", "VsockTestSupport",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: settings),
        .testTarget(
            name: "ExampleTests",
            dependencies: [
                "EchoServer", "RecordClient", "EmbeddedDevice", "Conversation", "vsock", "VsockSystem",
                "VsockTestPrograms",
            ], swiftSettings: settings),
        .testTarget(
            name: "DifferentialTests", dependencies: ["differential", "VsockSystem", "VsockTestSupport"],
            swiftSettings: settings),
        // Its folder FuzzTargets is that of Fuzzing: what the fuzzers run, and have found, is replayed.
        .testTarget(
            name: "FuzzReplayTests",
            dependencies: [
                "VsockWire", "VsockCore", "VirtioQueue", "VhostUser", "VsockSystem", "VsockTransport",
                "VsockSimulation", "VsockTestSupport",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: settings),
        .testTarget(
            name: "SimulationTests", dependencies: ["VsockSimulation", "VsockSystem"], swiftSettings: settings),
        .testTarget(name: "LayeringTests", swiftSettings: settings),
        .testTarget(
            name: "VsockCommandTests",
            dependencies: [
                "vsock", "VsockWire", "VsockCore", "VirtioQueue", "VhostUser", "VsockSystem", "VsockTransport",
                "VsockTestSupport",
            ],
            swiftSettings: settings),
        .testTarget(
            name: "GuestTests",
            dependencies: ["vsock", "Conversation", "VsockSystem", "VsockTestPrograms", "VsockTestSupport"],
            exclude: ["Programs"], swiftSettings: settings),
    ],
    swiftLanguageModes: [.v6]
)
