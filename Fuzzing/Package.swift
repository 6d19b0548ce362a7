// swift-tools-version: 6.2
//
// The fuzz targets with libFuzzer, one program for each. `make fuzz` builds and runs them; the package's own builds know
// nothing of them. FuzzTargets is compiled a second time by Tests/FuzzReplayTests, which replays what was found.

import PackageDescription

let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// A program has one file, which holds the function that libFuzzer calls and no main.
func program(_ name: String) -> Target {
    .executableTarget(name: name, dependencies: ["FuzzTargets", "FuzzRunner"], swiftSettings: settings)
}

let package = Package(
    name: "swift-vsock-fuzzing",
    platforms: [.macOS(.v26)],
    dependencies: [
        .package(name: "swift-vsock", path: ".."),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        // Reaches the layers below Vsock by @testable imports.
        .target(
            name: "FuzzTargets",
            dependencies: [
                .product(name: "Vsock", package: "swift-vsock"),
                .product(name: "VsockSimulation", package: "swift-vsock"),
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: settings),
        .target(name: "FuzzRunner", dependencies: ["FuzzTargets"], swiftSettings: settings),
        program("FuzzWire"),
        program("FuzzQueue"),
        program("FuzzVhostUser"),
        program("FuzzSession"),
        program("FuzzHybrid"),
        program("FuzzCore"),
        program("FuzzDevice"),
    ],
    swiftLanguageModes: [.v6]
)
