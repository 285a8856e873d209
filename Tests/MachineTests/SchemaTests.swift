// SPDX-License-Identifier: Apache-2.0
import Foundation
import TestSupport
import Testing

/// scripts/validate-json.
enum SchemaValidator {
    /// Why it cannot run here.
    static let missing: String? = {
        let python = (try? CommandLineTool.run("/usr/bin/python3 -c 'import jsonschema'"))?.status == 0
        let isCI = ProcessInfo.processInfo.environment["CI"] != nil
        return CommandLineTool.missing
            ?? (python || isCI ? nil : "python3-jsonschema is not installed: scripts/require test")
    }()

    static let program = URL(filePath: #filePath).deletingLastPathComponent()
        .appending(path: "../../scripts/validate-json").standardizedFileURL.path

    /// Expects a document to be what its schema says.
    static func expectValid(_ path: String) throws {
        guard missing == nil else { return }
        let outcome = try CommandLineTool.run("$VALIDATE --strict $FILE", ["VALIDATE": program, "FILE": path])
        #expect(outcome.status == 0, "\(outcome.error)")
    }
}

/// Every document against its schema in docs/schemas, by Debian's python3-jsonschema: no key that the schema lacks.
@Suite(.ownThread, .enabled(if: SchemaValidator.missing == nil, "\(SchemaValidator.missing ?? "")"))
struct SchemaTests {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..")
        .standardizedFileURL.path

    let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
    }

    /// What the validator says of the files.
    private func validate(_ script: String) throws -> CommandLineTool.Outcome {
        let guest = TinyGuest(
            Assembly.loop(100, Assembly.outByte) + Assembly.edi(TinyGuest.deviceAddress)
                + Assembly.loop(50, [0x89, 0x07])
                + Assembly.halt)
        // mov $0xF5, %edx; out %al, (%dx); jmp .
        let kernel = TinyGuest(Assembly.loop(9, Assembly.outByte) + Assembly.edx(0xF5) + [0xEE, 0xEB, 0xFE])
        _ = try folder.file("guest.elf", guest.elf)
        _ = try folder.file("kernel", kernel.elf)
        return try CommandLineTool.run(
            "set -e; cd $FOLDER; \(script)\n$ROOT/scripts/validate-json --strict *.json",
            ["FOLDER": folder.path, "ROOT": Self.root])
    }

    @Test(
        "what the commands write",
        arguments: [
            ("run", "$VMTALLY run --guest guest.elf --quiet --prefault --by port 3 address 3 msr rip 3 --json a.json"),
            ("run", "$VMTALLY demo --json a.json >/dev/null"),
            ("run", "$VMTALLY run --guest guest.elf --quiet --live-cpuid off --no-sandbox --json a.json"),
            ("bare-metal-probe", "$VMTALLY demo --serial | sed -n 's/^vmtally-probe-json //p' >a.json"),
            ("host", "$VMTALLY host --json a.json >/dev/null"),
            ("host", "$VMTALLY host --device /nonexistent --json a.json >/dev/null 2>&1 || test $? = 1"),
            ("cpuid", "for t in supported emulated vcpu; do $VMTALLY cpuid --of $t --json $t.json >/dev/null; done"),
            (
                "bench",
                "$VMTALLY bench --only cpuid,pio-out,live-fault,mmio-write --seconds 0.3 --json a.json >/dev/null"
            ),
            (
                "boot",
                "$VMTALLY boot --kernel kernel --memory 16 --runs 2 --no-log --console none --quiet -o a.json 2>/dev/null"
            ),
            (
                "compare",
                "$VMTALLY compare $ROOT/Benchmarks/results/boot-svm-6.1.json "
                    + "$ROOT/Benchmarks/results/boot-svm-6.1-b.json --fail-above 1% --json a.json >/dev/null || test $? = 2"
            ),
            ("top", "$VMTALLY top --batch --json a.json -n 2 -i 0.1 2>/dev/null"),
            ("boot", "cp $ROOT/Benchmarks/results/boot-*.json ."),
            ("bench", "cp $ROOT/Benchmarks/results/bench-*.json ."),
            ("benchmark", "for b in loop accounting start scrape; do cp $ROOT/Benchmarks/results/$b-*.json .; done"),
        ])
    func documents(name: String, script: String) throws {
        let outcome = try validate(script)
        #expect(outcome.status == 0, "\(outcome.error)")
        let lines = outcome.output.split(separator: "\n")
        #expect(!lines.isEmpty && lines.allSatisfy { $0.hasSuffix(" vmtally.\(name)/1") }, "\(outcome.output)")
    }

    @Test("what attach writes, of a VM that has run", .enabled(if: getuid() == 0, "takes root"))
    func attach() throws {
        let outcome = try validate(
            "$VMTALLY attach --from-start --quiet --json a.json -o b.json -- "
                + "$VMTALLY run --guest guest.elf --quiet --no-sandbox --live-cpuid off 2>/dev/null || exit 77")
        if outcome.status == 77 { try Test.cancel("nothing can count exits here") }
        #expect(outcome.status == 0, "\(outcome.error)")
        #expect(outcome.output == "a.json: vmtally.attach/1\nb.json: vmtally.boot/1\n", "\(outcome.output)")
    }

    @Test(
        "a document that is not of its schema is found out",
        arguments: [
            ("s/\"wall_ns\":[0-9]*/\"wall_ns\":\"1\"/", "is not of type"), ("s/\"wall_ns\"/\"wall\"/", "wall_ns"),
            ("s/\"reason\":\"halted\"/\"reason\":\"asleep\"/", "asleep"),
            ("s/vmtally.run.1/vmtally.walk\\/1/", "no schema"),
        ])
    func wrong(edit: String, message: String) throws {
        let outcome = try validate(
            "$VMTALLY run --guest guest.elf --quiet --live-cpuid off --json - | sed '\(edit)' >a.json")
        #expect(outcome.status == 1 && outcome.error.contains(message), "\(outcome.error)")
    }

    @Test("each schema is in docs/output.md, with the name that it has itself")
    func names() throws {
        let page = try String(contentsOfFile: Self.root + "/docs/output.md", encoding: .utf8)
        let files = try FileManager.default.contentsOfDirectory(atPath: Self.root + "/docs/schemas").sorted()
        #expect(files.count >= 11)
        for file in files {
            let name = "vmtally." + file.replacing("-1.json", with: "/1")
            #expect(page.contains("[`\(name)`](schemas/\(file))"), "\(file)")
            let schema = try String(contentsOfFile: Self.root + "/docs/schemas/" + file, encoding: .utf8)
            #expect(schema.contains("\"const\": \"\(name)\""), "\(file)")
        }
        #expect(page.matches(of: /\(schemas\/[a-z-]+1\.json\)/).count == files.count)
    }

    @Test("documents and --version name the commit")
    func version() throws {
        let outcome = try CommandLineTool.run("$VMTALLY --version; $VMTALLY host --json | grep -o '\"tool\":{[^}]*}'")
        let lines = outcome.output.split(separator: "\n")
        try #require(lines.count == 2, "\(outcome.output)")
        #expect(lines[1] == "\"tool\":{\"name\":\"vmtally\",\"version\":\"\(lines[0])\"}")
        let isCheckout = FileManager.default.fileExists(atPath: Self.root + "/.git")
        #expect(lines[0].contains(/^[0-9]+\.[0-9]+\.[0-9]+\+[0-9a-f]{12}(-modified)?$/) == isCheckout, "\(lines[0])")
    }
}
