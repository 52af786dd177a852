# Saves the pool tag table of this machine every now and then: one CSV file a sample, there whole or not at all.
# Needs Windows and its PowerShell (2.0 or newer), no administrator, no debugger, no driver kit. Ctrl+C stops it.
#   powershell -NoProfile -ExecutionPolicy Bypass -File capture.ps1
# Then, on any machine: poolleak trend FOLDER
param([int]$EverySeconds = 900, [int]$Count = 200, [string]$Folder = '.')

if ([IntPtr]::Size -eq 4 -and $env:PROCESSOR_ARCHITEW6432) {
    throw 'This is the 32-bit PowerShell of a 64-bit Windows, which does not see all numbers; start the 64-bit one.'
}
if (-not ('PoolSample' -as [type])) {
Add-Type -TypeDefinition @'
using System;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

public static class PoolSample
{
    const int SystemPoolTagInformation = 22;
    const uint StatusInfoLengthMismatch = 0xC0000004;
    const uint MaxBufferBytes = 64 << 20;

    [StructLayout(LayoutKind.Sequential)]
    struct SystemPoolTag
    {
        public uint Tag;
        public uint PagedAllocs;
        public uint PagedFrees;
        public UIntPtr PagedUsed;
        public uint NonPagedAllocs;
        public uint NonPagedFrees;
        public UIntPtr NonPagedUsed;
    }

    [StructLayout(LayoutKind.Sequential)]
    struct PerformanceInformation
    {
        public uint Size;
        public UIntPtr CommitTotal;
        public UIntPtr CommitLimit;
        public UIntPtr CommitPeak;
        public UIntPtr PhysicalTotal;
        public UIntPtr PhysicalAvailable;
        public UIntPtr SystemCache;
        public UIntPtr KernelTotal;
        public UIntPtr KernelPaged;
        public UIntPtr KernelNonpaged;
        public UIntPtr PageSize;
        public uint HandleCount;
        public uint ProcessCount;
        public uint ThreadCount;
    }

    [DllImport("ntdll.dll")]
    static extern uint NtQuerySystemInformation(int kind, IntPtr buffer, uint size, out uint needed);

    [DllImport("psapi.dll")]
    static extern bool GetPerformanceInfo(out PerformanceInformation information, uint size);

    [DllImport("kernel32.dll")]
    static extern ulong GetTickCount64();

    // The CSV of one sample. What is true of the whole sample stands in its first row only, but for time and host.
    public static string Take()
    {
        string time = DateTime.UtcNow.ToString("yyyy-MM-dd'T'HH:mm:ss'Z'", CultureInfo.InvariantCulture);
        string start = time + "," + Environment.MachineName + ",";
        string facts = ReadUptime() + ReadTotals();
        StringBuilder csv = new StringBuilder();
        csv.Append("TimeUtc,Host,UptimeSeconds,");
        csv.Append("SystemNonpagedBytes,SystemPagedBytes,SystemCommitBytes,SystemCommitLimitBytes,");
        csv.Append("SystemPhysicalBytes,SystemAvailableBytes,");
        csv.Append("Hex,Tag,PagedAllocs,PagedFrees,PagedBytes,NonpagedAllocs,NonpagedFrees,NonpagedBytes\r\n");
        IntPtr buffer = ReadTable();
        try
        {
            int count = Marshal.ReadInt32(buffer);
            long entry = buffer.ToInt64() + IntPtr.Size;
            for (int index = 0; index < count; index++)
            {
                SystemPoolTag tag = (SystemPoolTag)Marshal.PtrToStructure(new IntPtr(entry), typeof(SystemPoolTag));
                entry += Marshal.SizeOf(typeof(SystemPoolTag));
                csv.Append(start).Append(index == 0 ? facts : ",,,,,,,");
                AppendTag(csv, tag.Tag);
                csv.Append(tag.PagedAllocs).Append(',').Append(tag.PagedFrees).Append(',');
                csv.Append(tag.PagedUsed.ToUInt64()).Append(',');
                csv.Append(tag.NonPagedAllocs).Append(',').Append(tag.NonPagedFrees).Append(',');
                csv.Append(tag.NonPagedUsed.ToUInt64()).Append("\r\n");
            }
        }
        finally
        {
            Marshal.FreeHGlobal(buffer);
        }
        return csv.ToString();
    }

    static IntPtr ReadTable()
    {
        uint size = 256 << 10;
        while (true)
        {
            uint needed;
            IntPtr buffer = Marshal.AllocHGlobal((int)size);
            uint status = NtQuerySystemInformation(SystemPoolTagInformation, buffer, size, out needed);
            if (status == 0)
                return buffer;
            Marshal.FreeHGlobal(buffer);
            size = Math.Max(2 * size, needed);
            if (status != StatusInfoLengthMismatch || size > MaxBufferBytes)
                throw new InvalidOperationException("NtQuerySystemInformation: status 0x" + status.ToString("x8"));
        }
    }

    // Eight digits in memory order, then the characters, a question mark for what is not printable.
    static void AppendTag(StringBuilder csv, uint tag)
    {
        StringBuilder shown = new StringBuilder();
        for (int place = 0; place < 4; place++)
        {
            byte part = (byte)(tag >> (8 * place));
            csv.Append(part.ToString("x2"));
            shown.Append(part >= 0x20 && part < 0x7F && part != '"' ? (char)part : '?');
        }
        csv.Append(",\"").Append(shown.ToString()).Append("\",");
    }

    static string ReadUptime()
    {
        try
        {
            return (GetTickCount64() / 1000) + ",";
        }
        catch (EntryPointNotFoundException)  // before Windows Vista
        {
            return ",";
        }
    }

    static string ReadTotals()
    {
        PerformanceInformation pages;
        if (!GetPerformanceInfo(out pages, (uint)Marshal.SizeOf(typeof(PerformanceInformation))))
            return ",,,,,,";
        UIntPtr[] totals = new UIntPtr[] {
            pages.KernelNonpaged, pages.KernelPaged, pages.CommitTotal, pages.CommitLimit,
            pages.PhysicalTotal, pages.PhysicalAvailable };
        StringBuilder text = new StringBuilder();
        foreach (UIntPtr total in totals)
            text.Append(total.ToUInt64() * pages.PageSize.ToUInt64()).Append(',');
        return text.ToString();
    }
}
'@
}

if (-not (Test-Path $Folder)) { New-Item -ItemType Directory -Path $Folder | Out-Null }
$Folder = (Resolve-Path $Folder).ProviderPath
for ($sample = 1; $sample -le $Count; $sample++) {
    $time = [DateTime]::UtcNow.ToString('yyyyMMdd-HHmmss', [Globalization.CultureInfo]::InvariantCulture)
    $path = Join-Path $Folder "pool-$env:COMPUTERNAME-${time}Z.csv"
    [IO.File]::WriteAllText("$path.partial", [PoolSample]::Take())
    [IO.File]::Move("$path.partial", $path)
    Write-Host "$sample of ${Count}: $path"
    if ($sample -lt $Count) { Start-Sleep -Seconds $EverySeconds }
}
