// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// README and docs are true in each line: what they show of `vmtally` is typed, or it is said who else types it.
@Suite(.ownThread, .enabled(if: CommandLineTool.missing == nil, "\(CommandLineTool.missing ?? "")"))
struct DocumentationTests {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..")
        .standardizedFileURL.path

    /// A command line that a page shows.
    struct Shown: CustomTestStringConvertible, Sendable, Hashable {
        let page: String
        let line: String
        /// What the page shows below it.
        var output: [String] = []
        var testDescription: String { "\(page): \(line)" }
    }

    /// Lines in code, fenced or indented, that run vmtally on the host.
    static let shown: [Shown] = pages.flatMap { page, text in
        var isFenced = false
        var shown: [Shown] = []
        var isBelow = false
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("```") { isFenced.toggle() }
            guard !line.hasPrefix("```"), isFenced || line.hasPrefix("    ") else {
                isBelow = false
                continue
            }
            var words = line.drop { $0 == " " }
            for prompt in ["$ ", "host# "] where words.hasPrefix(prompt) { words = words.dropFirst(prompt.count) }
            if words.prefixMatch(of: /([A-Z_]+=\S+ )*(sudo )?(build\/)?vmtally [a-z]/) != nil,
                !words.hasPrefix("vmtally probe:")
            {
                let command = words.split(separator: "  #", maxSplits: 1)[0].split(separator: "    #", maxSplits: 1)[0]
                shown.append(Shown(page: page, line: command.trimmingCharacters(in: .whitespaces)))
                isBelow = isFenced
            } else if line.hasPrefix("$ ") {
                isBelow = false
            } else if isBelow, line != "...", !line.isEmpty {
                shown[shown.count - 1].output.append(String(line))
            }
        }
        return shown
    }

    private static let pages: [(String, String)] = {
        let manager = FileManager.default
        let docs = ((try? manager.contentsOfDirectory(atPath: root + "/docs")) ?? []).map { "docs/" + $0 }
        return (["README.md", "CONTRIBUTING.md", "SECURITY.md"] + docs.filter { $0.hasSuffix(".md") }.sorted()).map {
            ($0, (try? String(contentsOfFile: root + "/" + $0, encoding: .utf8)) ?? "")
        }
    }()

    /// What is behind a line when it is typed here, so that it ends soon; and the statuses that are right.
    private struct Typed {
        var more = ""
        var statuses: Set<Int32> = [0]
    }

    /// Lines that this machine can do, by how they begin.
    private static let typed: [(start: String, Typed)] = [
        ("vmtally bench --only", Typed()), ("vmtally bench --list", Typed()), ("vmtally bench --from", Typed()),
        // All kinds in a second: too few blocks to judge some of them, on most machines.
        ("vmtally bench --baseline", Typed(more: " --seconds 1", statuses: [0, 2, 3])),
        ("vmtally bench", Typed(more: " --seconds 1")),
        ("build/vmtally bench", Typed()), ("build/vmtally demo", Typed()), ("vmtally demo", Typed()),
        ("build/vmtally host", Typed()),
        ("vmtally run --guest kernel.elf", Typed()), ("build/vmtally run --guest kernel.elf", Typed()),
        // The recordings of Benchmarks/results.
        ("vmtally compare boot-svm-6.1.json boot-svm-planted.json --fail-above", Typed(statuses: [2])),
        ("vmtally compare", Typed(statuses: [0, 2])),
    ]

    /// Lines that take what is not here, and who types them, or the same with files of their own.
    private static let elsewhere: [(start: String, by: String)] = [
        ("vmtally attach", "LabTests/AttachTests: a VM of QEMU's"), ("vmtally top", "LabTests/TopTests: a terminal"),
        ("sudo vmtally allow", "kernel-module/tests: the module"),
        ("sudo vmtally export", "Exporter's own tests: a server"),
        ("vmtally boot", "LabTests/LinuxBootTests: protocol"),
        ("vmtally history", "HistoryTests, MachineTests/CommandLineTests"),
        ("vmtally run --kernel vmlinuz --initrd initrd --cpuid-site", "LabTests/LinuxBootTests: live"),
        ("vmtally run --kernel vmlinuz --initrd initrd --memory 256 --live-cpuid off -i", "MachineTests/IntervalTests"),
        ("build/vmtally run --kernel", "LabTests/AskedTests: lines"),
        ("build/vmtally run --append", "LabTests/AskedTests: lines"),
        ("build/vmtally run --cpuid", "LabTests/AskedTests: lines"),
        ("build/vmtally run --multiboot", "LabTests/KVMUnitTestsTests"),
    ]

    @Test("every line is typed by a test", arguments: shown)
    func lines(shown: Shown) throws {
        if Self.elsewhere.contains(where: { shown.line.hasPrefix($0.start) }) { return }
        let command = shown.line.replacing(#/^[A-Z_]+=\S+ /#, with: "")
        let typed = try #require(
            Self.typed.first { command.hasPrefix($0.start) }?.1, "no test types '\(shown.line)': add it here")
        let folder = try TemporaryFolder()
        let guest = TinyGuest(
            Assembly.loop(9, Assembly.outByte) + Assembly.edi(TinyGuest.deviceAddress) + [0x89, 0x07] + Assembly.halt)
        _ = try folder.file("kernel.elf", guest.elf)
        let isBench = shown.line.contains("vmtally bench")
        let script = """
            cd $FOLDER; cp $ROOT/Benchmarks/results/*.json .; mkdir -p Benchmarks; ln -s .. Benchmarks/results
            if \(isBench); then
                $VMTALLY bench --only cpuid,pio-out --seconds 1 --json before.json >/dev/null; cp before.json now.json
            else
                cp boot-svm-6.1.json before.json; cp boot-svm-6.1-b.json after.json
                cp before.json k1.json; cp after.json k2.json
            fi
            mkdir build bin; ln $VMTALLY build/vmtally 2>/dev/null || cp $VMTALLY build/vmtally; PATH=$PWD/build:$PATH
            \(shown.line)\(typed.more)
            """
        let outcome = try CommandLineTool.run(script, ["FOLDER": folder.path, "ROOT": Self.root])
        #expect(typed.statuses.contains(outcome.status), "\(outcome.status): \(outcome.error)")
        // Of committed results the page shows what comes out, line by line.
        if shown.line.contains("--from Benchmarks/results/") || shown.line.contains("compare boot-svm") {
            let lines = Set(outcome.output.split(separator: "\n").map(String.init))
            for line in shown.output { #expect(lines.contains(line), "\(line)") }
            #expect(shown.output.count > 3)
        }
    }

    @Test("each option that the pages name with a command is one of its own")
    func options() throws {
        var help: [String: String] = [:]
        var seen = 0
        for (page, text) in Self.pages {
            for match in text.matches(of: /vmtally (run|bench|boot|compare|attach|top|host|cpuid|demo)\b([^\n`|]*)/) {
                let command = String(match.1)
                // Behind " -- " and in quotation marks are other programs' words.
                let words = match.2.split(separator: " -- ", maxSplits: 1).first.map(String.init) ?? ""
                let own = words.replacing(/'[^']*'?/, with: "''")
                for option in own.matches(of: /(?:^|\s)(--[a-z][a-z-]*)/) {
                    let text = try help[command] ?? CommandLineTool.run("exec $VMTALLY help \(command)").output
                    help[command] = text
                    seen += 1
                    #expect(text.contains(String(option.1)), "\(page): vmtally \(command) has no \(option.1)")
                }
            }
        }
        #expect(seen > 50)
    }

    /// Typed by CI, by hand in the lab (the READMEs of kernel-patch and kernel-module have the dates), or by Packaging/try.
    @Test("each make target and script that the pages name is there, and knows the options that they name")
    func programs() throws {
        let makefile = try String(contentsOfFile: Self.root + "/Makefile", encoding: .utf8)
        let targets = Set(
            makefile.matches(of: /(?m)^([a-z][a-z -]*):(?!=)/).flatMap { $0.1.split(separator: " ").map(String.init) })
        var seen = (targets: 0, scripts: 0)
        for (page, text) in Self.pages {
            for match in text.matches(of: /(?:`|\$ |^|\n    )make ((?:[a-z][a-z-]*[ `]?)+)/) {
                for target in match.1.split(whereSeparator: { $0 == " " || $0 == "`" }).prefix(1) {
                    seen.targets += 1
                    #expect(targets.contains(String(target)), "\(page): make \(target)")
                }
            }
            let script =
                /(?:^|[\s`(])((?:Lab|Packaging|Benchmarks|Examples|kernel-patch|kernel-module|scripts)\/[a-z][a-z-]*)([^\n`|]*)/
            for match in text.matches(of: script) {
                let path = Self.root + "/" + match.1
                var isFolder: ObjCBool = false
                guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
                    // Folders' prefixes, as in Benchmarks/results/bench-*.
                    #expect(match.2.hasPrefix("/") || match.2.hasPrefix("."), "\(page): \(match.1)")
                    continue
                }
                guard !isFolder.boolValue else { continue }
                seen.scripts += 1
                let source = try String(contentsOfFile: path, encoding: .utf8)
                let own = match.2.split(separator: " -- ", maxSplits: 1).first.map(String.init) ?? ""
                for option in own.matches(of: /(?:^|\s)(--[a-z][a-z-]*)/) {
                    #expect(source.contains(String(option.1)), "\(page): \(match.1) has no \(option.1)")
                }
            }
        }
        #expect(seen.targets > 20 && seen.scripts > 20, "\(seen)")
    }

    @Test("links between pages lead to pages")
    func links() throws {
        for (page, text) in Self.pages {
            let folder = URL(filePath: Self.root + "/" + page).deletingLastPathComponent()
            for match in text.matches(of: /\]\(([^)#:\s]+)(?:#[^)]*)?\)/) {
                let target = folder.appending(path: String(match.1)).standardizedFileURL.path
                #expect(FileManager.default.fileExists(atPath: target), "\(page): \(match.1)")
            }
        }
    }
}
