// SPDX-License-Identifier: Apache-2.0
import BootRecords
import Glibc
import GRDB

/// Recordings of boots in one SQLite file, in the order in which they were added.
struct History {
    /// What is known of a recording without reading it whole.
    struct Entry: Codable, FetchableRecord {
        var id: Int64
        var label: String
        /// A commit, a version, whatever tells what was recorded; empty: nothing was said.
        var revision: String
        /// Seconds since 1970.
        var recorded: Int
        var hostKernel: String
        var backend: String
    }

    /// One configuration's medians in one entry.
    struct Point: Codable, FetchableRecord {
        var id: Int64
        var label: String
        var revision: String
        var recorded: Int
        var configuration: String
        var runs: Int
        /// NULL where nobody counted.
        var hardware: Double?
        var guest: Double?
        var userspace: Double
    }

    private let path: String
    private let database: DatabaseQueue

    /// What is to be done with a history.
    enum Purpose {
        /// The file stays as it is, byte by byte.
        case read
        case change
        /// A file that is not there is made.
        case add
    }

    /// Opens the file.
    ///
    /// - Throws: ``HistoryError`` for a file that is no history: whatever else is in it stays as it is.
    init(path: String, for purpose: Purpose) throws {
        self.path = path
        let size = try Self.size(path)
        guard size != nil || purpose == .add else {
            throw HistoryError("\(path): no such history; vmtally history add makes one")
        }
        var configuration = Configuration()
        configuration.readonly = purpose == .read
        // Another that adds is waited for.
        configuration.busyMode = .timeout(10)
        database = try Self.told(path) { try DatabaseQueue(path: Self.file(path), configuration: configuration) }
        try Self.told(path) { [database] in try Self.prepare(database, path, size, purpose) }
    }

    /// Finds out whether it is a history, and of which version.
    private static func prepare(_ database: DatabaseQueue, _ path: String, _ size: Int?, _ purpose: Purpose) throws {
        let migrator = Self.migrator
        // An empty file is as good as none for what is to be added.
        if let size, size > 0 || purpose != .add {
            let isOurs = try database.read { database in
                try database.tableExists("grdb_migrations") && database.tableExists("recording")
                    && database.tableExists("configuration")
            }
            guard isOurs else {
                throw HistoryError("\(path) is not a history of vmtally: give another --db")
            }
            guard try database.read({ try !migrator.hasBeenSuperseded($0) }) else {
                throw HistoryError("\(path) was written by a newer vmtally-history: use that one")
            }
        }
        if purpose == .read {
            guard try database.read({ try migrator.hasCompletedMigrations($0) }) else {
                throw HistoryError("\(path) is of an older vmtally-history: adding a recording brings it up to date")
            }
        } else {
            try migrator.migrate(database)
        }
    }

    /// SQLite's errors in its own words, without the statement that met them.
    private static func told<Result>(_ path: String, _ body: () throws -> Result) throws -> Result {
        do {
            return try body()
        } catch let error as DatabaseError {
            throw HistoryError("\(path): \(error.message ?? "error \(error.extendedResultCode.rawValue)")")
        }
    }

    private func read<Result>(_ body: (Database) throws -> Result) throws -> Result {
        try Self.told(path) { try database.read(body) }
    }

    private func write<Result>(_ body: (Database) throws -> Result) throws -> Result {
        try Self.told(path) { try database.write(body) }
    }

    /// What SQLite takes for a file, whatever it is called: `:memory:` and `file:` have other meanings there.
    private static func file(_ path: String) -> String { path.hasPrefix("/") ? path : "./" + path }

    /// Bytes of the file; nil: there is none.
    private static func size(_ path: String) throws -> Int? {
        var status = stat()
        guard stat(path, &status) == 0 else {
            guard errno == ENOENT else { throw HistoryError("\(path): \(String(cString: strerror(errno)))") }
            return nil
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw HistoryError("\(path) is not a regular file: give another --db")
        }
        return Int(status.st_size)
    }

    private static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { database in
            try database.create(table: "recording") { table in
                table.autoIncrementedPrimaryKey("id")
                table.column("label", .text).notNull()
                table.column("revision", .text).notNull()
                table.column("recorded", .integer).notNull()
                table.column("hostKernel", .text).notNull()
                table.column("backend", .text).notNull()
                // The recording as it was: vmtally.boot/1.
                table.column("json", .text).notNull()
            }
            // What a trend is made of, so that it needs no reading of all recordings.
            try database.create(table: "configuration") { table in
                table.column("recording", .integer).notNull().references("recording", onDelete: .cascade)
                table.column("name", .text).notNull()
                table.column("runs", .integer).notNull()
                table.column("hardware", .double)
                table.column("guest", .double)
                table.column("userspace", .double).notNull()
                table.primaryKey(["recording", "name"])
            }
        }
        return migrator
    }

    /// Adds a recording; returns its number.
    func add(_ recording: BootRecording, revision: String) throws -> Int64 {
        let json = try recording.json()
        return try write { database in
            try database.execute(
                sql: """
                    INSERT INTO recording (label, revision, recorded, hostKernel, backend, json) VALUES (?, ?, ?, ?, ?, ?)
                    """,
                arguments: [
                    recording.label, revision, recording.recorded, recording.host.kernel, recording.host.backend, json,
                ])
            let id = database.lastInsertedRowID
            for configuration in recording.configurations {
                func median(_ value: (BootRun) -> UInt64?) -> Double? {
                    let values = configuration.runs.compactMap(value)
                    guard values.count == configuration.runs.count else { return nil }
                    return Statistics.median(values.map { Double($0) })
                }
                try database.execute(
                    sql: """
                        INSERT OR REPLACE INTO configuration (recording, name, runs, hardware, guest, userspace)
                        VALUES (?, ?, ?, ?, ?, ?)
                        """,
                    arguments: [
                        id, configuration.name, configuration.runs.count, median { $0.hardware?.total },
                        median(\.guestExits), median { $0.userspace.total },
                    ])
            }
            return id
        }
    }

    func entries() throws -> [Entry] {
        try read { database in
            try Entry.fetchAll(
                database, sql: "SELECT id, label, revision, recorded, hostKernel, backend FROM recording ORDER BY id")
        }
    }

    /// Of the configurations whose name has these words (``ConfigurationFilter``), or of all; the last so many entries.
    func trend(of words: String?, last count: Int) throws -> [Point] {
        let points = try read { database in
            try Point.fetchAll(
                database,
                sql: """
                    SELECT recording.id, label, revision, recorded, name AS configuration, runs, hardware, guest, userspace
                    FROM configuration JOIN recording ON recording.id = configuration.recording
                    WHERE recording.id IN (SELECT id FROM recording ORDER BY id DESC LIMIT ?)
                    ORDER BY name, recording.id
                    """, arguments: [count])
        }
        let chosen = ConfigurationFilter(words ?? "")
        let matching = points.filter { chosen.match($0.configuration) }
        guard matching.isEmpty, !points.isEmpty else { return matching }
        let names = Set(points.map(\.configuration)).sorted().joined(separator: "; ")
        throw HistoryError("no configuration has the words \(words ?? ""); there are: \(names)")
    }

    /// The recording of a number, or the newest: what was recorded, number and all.
    ///
    /// - Parameter candidate: is no baseline of its own: it may have been added before.
    /// - Returns: nil when the candidate itself is all that there is.
    func recording(_ id: Int64?, besides candidate: BootRecording) throws -> (id: Int64, recording: BootRecording)? {
        let own = try candidate.json()
        let (row, count) = try read { database in
            let sql = "SELECT id, json FROM recording WHERE json <> ? AND id = ifnull(?, id) ORDER BY id DESC LIMIT 1"
            return (
                try Row.fetchOne(database, sql: sql, arguments: [own, id]),
                try Int.fetchOne(
                    database, sql: "SELECT count(*) FROM recording WHERE id = ifnull(?, id)", arguments: [id]) ?? 0
            )
        }
        guard count > 0 else {
            throw HistoryError(
                id.map { "there is no recording \($0): see vmtally history list" } ?? "the history is empty")
        }
        guard let row else { return nil }
        let json: String = row["json"]
        return (row["id"], try BootRecording(json: Array(json.utf8)))
    }

    /// Removes a recording; false when there is none of that number.
    func remove(_ id: Int64) throws -> Bool {
        try write { database in
            try database.execute(sql: "DELETE FROM recording WHERE id = ?", arguments: [id])
            return database.changesCount > 0
        }
    }
}

struct HistoryError: Error, Equatable, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}
