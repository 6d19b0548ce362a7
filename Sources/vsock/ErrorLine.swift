// SPDX-License-Identifier: Apache-2.0
//
// Errors are one line: the parser's own report of wrong usage adds the synopsis, which hides the error behind it.

import ArgumentParser

extension VsockCommand {
    /// Runs the command and exits. The name is the one that the parser's own entry point has.
    static func main() {
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch {
            let code = exitCode(for: error)
            // Help and the like are no errors.
            guard code != .success else { exit(withError: error) }
            let message = message(for: error)
            if !message.isEmpty {
                let hint = code == .validationFailure ? " (see \(helpCommand) --help)" : ""
                Console.report("vsock: \(message.replacing("\n", with: " "))\(hint)")
            }
            exit(withError: code)
        }
        exit()
    }

    /// The command whose help tells more.
    private static var helpCommand: String {
        let name = CommandLine.arguments.dropFirst().first
        let isKnown = configuration.subcommands.contains { $0._commandName == name }
        return isKnown ? "vsock \(name ?? "")" : "vsock"
    }
}
